-- Each request pulls ten messages of one of 1,000 chats.
request = function()
  local chat = math.random(0, 999)
  return wrk.format('GET', string.format('/api/pull?chat=a-%d:b-%d&limit=10', chat, chat))
end
