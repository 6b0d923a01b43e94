-- Gives the send time of the message at a position of a room, in microseconds since the
-- Unix epoch; '0' where there is none. The message itself may be long, and stays here.
-- KEYS[1]: the room's sorted set. ARGV[1]: the position.
local found = redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[1], 'WITHSCORES')
return found[2] and string.format('%.0f', tonumber(found[2])) or '0'
