-- Reads a page of a room and the number of messages in it, at one instant.
-- KEYS[1]: the room's sorted set. ARGV: cursor, limit, whether to go in reverse
-- ('1' or '0'), total (0: none), the most bytes of members.
-- Gives {total, member, score, member, score, ...}: total is the number of
-- messages or, in reverse, the one that positions are counted back from. Scores
-- leave as Redis writes them, which is exact.
--
-- It reads in chunks and ends before the bytes run over, but not before the
-- first message, so that no call holds Redis for long.
local key = KEYS[1]
local cursor, limit, total, budget = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
local reverse = ARGV[3] == '1'
local CHUNK = 16

local count = redis.call('ZCARD', key)
if not reverse or total == 0 or total > count then
  total = count
end
local page = {string.format('%.0f', total)}
local first = cursor
if reverse then
  first = count - total + cursor -- ranks count from the newest message
end
local last = first + math.min(limit, total - cursor) - 1

while first <= last do
  local stop = math.min(first + CHUNK - 1, last)
  local chunk
  if reverse then
    chunk = redis.call('ZRANGE', key, first, stop, 'REV', 'WITHSCORES')
  else
    chunk = redis.call('ZRANGE', key, first, stop, 'WITHSCORES')
  end
  for i = 1, #chunk, 2 do
    budget = budget - #chunk[i]
    if budget < 0 and #page > 1 then
      return page
    end
    page[#page + 1] = chunk[i]
    page[#page + 1] = chunk[i + 1]
  end
  first = stop + 1
end
return page
