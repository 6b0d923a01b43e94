-- Appends a message to its room and gives the send time it has there, in
-- microseconds since the Unix epoch.
-- KEYS[1]: the room's sorted set. ARGV[1]: the member to add.
--
-- A member already there keeps its time, which makes a retry a no-op. A new one
-- gets a time above all others, whatever the clock says: positions never change.
-- Times leave as %.0f, since tostring() rounds to 14 digits.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score then
  local now = redis.call('TIME')
  score = now[1] * 1000000 + now[2]
  local last = redis.call('ZRANGE', KEYS[1], 0, 0, 'REV', 'WITHSCORES')
  if last[2] then
    score = math.max(score, last[2] + 1)
  end
  redis.call('ZADD', KEYS[1], score, ARGV[1])
end
return string.format('%.0f', tonumber(score))
