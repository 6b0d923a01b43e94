-- One request in five sends, the others pull.
local n = 0
request = function()
  n = n + 1
  local chat = math.random(0, 999)
  if n % 5 == 0 then
    local body = string.format('{"chat":"a-%d:b-%d","text":"message %d of %d","sender":"a-%d"}', chat, chat, n, math.random(0, 2147483646), chat)
    return wrk.format('POST', '/api/send', {['Content-Type'] = 'application/json'}, body)
  end
  return wrk.format('GET', string.format('/api/pull?chat=a-%d:b-%d&limit=10', chat, chat))
end
