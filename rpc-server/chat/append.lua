-- Appends a message to its room and gives the send time it has there, in
-- microseconds since the Unix epoch.
-- KEYS[1]: the room's sorted set. ARGV[1]: the member to add.
--
-- A new member gets a time above all others, whatever the clock says: positions
-- never change. Times go in and out as %.0f, since tostring() rounds to 14 digits.
local now = redis.call('TIME')
local score = now[1] * 1000000 + now[2]
local last = redis.call('ZRANGE', KEYS[1], 0, 0, 'REV', 'WITHSCORES')
if last[2] then
  score = math.max(score, last[2] + 1)
end
local time = string.format('%.0f', score)
local added = redis.pcall('ZADD', KEYS[1], 'NX', time, ARGV[1])
if added == 1 then
  return time
end
-- A member already there keeps its time, which makes a retry a no-op, also where
-- Redis takes no writes.
local kept = redis.call('ZSCORE', KEYS[1], ARGV[1])
if kept then
  return string.format('%.0f', tonumber(kept))
end
return added
