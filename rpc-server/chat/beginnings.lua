-- Gives the beginnings of the members at some positions of a room: who sent a message, not
-- what it says.
-- KEYS[1]: the room's sorted set. ARGV: the first and the last position, how many bytes.
local found = redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[2])
for i = 1, #found do
  found[i] = string.sub(found[i], 1, tonumber(ARGV[3]))
end
return found
