-- Each request sends a distinct text to one of 1,000 chats.
local n = 0
request = function()
  n = n + 1
  local chat = math.random(0, 999)
  local body = string.format('{"chat":"a-%d:b-%d","text":"message %d of %d","sender":"a-%d"}', chat, chat, n, math.random(0, 2147483646), chat)
  return wrk.format('POST', '/api/send', {['Content-Type'] = 'application/json'}, body)
end
