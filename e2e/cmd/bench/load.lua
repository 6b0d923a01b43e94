-- Asks for what the arguments say: send, pull or mix (one send to four pulls); the
-- prefix of the chats' names; how many chats; what a pull asks for; a file with a token
-- for each chat, or nothing. Each request is for any of the chats, each text sent is
-- another one.
local kind, prefix, chats, query
local tokens = {}

function init(args)
  kind, prefix, chats, query = args[1], args[2], tonumber(args[3]), args[4]
  if args[5] and args[5] ~= '' then
    for token in io.lines(args[5]) do
      tokens[#tokens + 1] = 'Bearer ' .. token
    end
  end
  math.randomseed(os.time())
end

local n = 0
function request()
  n = n + 1
  local chat = math.random(0, chats - 1)
  local token = tokens[chat + 1]
  if kind == 'send' or kind == 'mix' and n % 5 == 0 then
    local body = string.format('{"chat":"%s-a-%d:%s-b-%d","text":"message %d of %d","sender":"%s-a-%d"}',
      prefix, chat, prefix, chat, n, math.random(0, 2147483646), prefix, chat)
    return wrk.format('POST', '/api/send', {['Content-Type'] = 'application/json', Authorization = token}, body)
  end
  return wrk.format('GET', string.format('/api/pull?chat=%s-a-%d:%s-b-%d&%s', prefix, chat, prefix, chat, query), {Authorization = token})
end
