-- Appends a message to its room and gives the send time it has there, in
-- microseconds since the Unix epoch, and whether it is the only one ('1' or '0').
-- KEYS[1]: the room's sorted set. ARGV: the member to add, how many replicas are
-- waited for.
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
  return {time, last[2] and '0' or '1'}
end
-- A member already there keeps its time, which makes a retry a no-op, also where
-- Redis takes no writes and no replicas are waited for.
local kept = redis.call('ZSCORE', KEYS[1], ARGV[1])
if kept then
  -- WAIT waits for what its own connection wrote last. So that a retry waits as well,
  -- it writes something that leaves nothing: that the room expires, then that it does not.
  if ARGV[2] ~= '0' then
    redis.call('PEXPIREAT', KEYS[1], 9999999999999)
    redis.call('PERSIST', KEYS[1])
  end
  return {string.format('%.0f', tonumber(kept)), redis.call('ZCARD', KEYS[1]) == 1 and '1' or '0'}
end
return added
