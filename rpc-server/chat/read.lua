-- Moves the mark of how far a member has read a room, and gives what is kept. It only grows, and
-- ends at the number of messages in the room. 0 is not kept.
-- KEYS[1]: the member's marks, a hash. ARGV: the room's name, the mark, the number of messages,
-- a mark that is above that since the room went back, and is lowered to it ('' is none).
local kept = redis.call('HGET', KEYS[1], ARGV[1]) or '0'
local total = tonumber(ARGV[3])
local before = tonumber(kept)
if kept == ARGV[4] then
  before = math.min(before, total)
end
local read = string.format('%.0f', math.max(before, math.min(tonumber(ARGV[2]), total)))
if read == '0' then
  redis.call('HDEL', KEYS[1], ARGV[1])
elseif read ~= kept then
  redis.call('HSET', KEYS[1], ARGV[1], read)
end
return read
