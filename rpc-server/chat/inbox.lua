-- Puts a room into a member's inbox.
-- KEYS[1]: the inbox, a set. ARGV: the room's name, how many replicas are waited for.
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then
  return redis.call('SADD', KEYS[1], ARGV[1])
end
-- Nothing is written where it is there, also for a Redis that takes no writes. But as in
-- append.lua: who waits for replicas waits only after a write.
if ARGV[2] ~= '0' then
  redis.call('PEXPIREAT', KEYS[1], 9999999999999)
  redis.call('PERSIST', KEYS[1])
end
return 0
