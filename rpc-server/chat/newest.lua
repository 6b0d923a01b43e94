-- Gives, of each room, how many messages it has, and the send time of the newest one, in
-- microseconds since the Unix epoch, as Redis writes it; '0' where there is none. The messages
-- themselves may be long, and stay here.
-- KEYS: the rooms' sorted sets.
local rooms = {}
for i, key in ipairs(KEYS) do
  rooms[2 * i - 1] = redis.call('ZCARD', key)
  rooms[2 * i] = redis.call('ZRANGE', key, '-1', '-1', 'WITHSCORES')[2] or '0'
end
return rooms
