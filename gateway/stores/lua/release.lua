-- Give keys back after a call: clear the rest of a healthy one, or let the ones that a fault names rest.
-- KEYS[1]  turns, KEYS[2] rests: see lease.lua
-- ARGV[1]  seconds to rest; 0 clears, for the key and for the model
-- ARGV[2]  state, ARGV[3] fault, ARGV[4] model or "" for every model
-- ARGV[5]  time to live of KEYS[2], seconds
-- ARGV[6..] members
-- Returns  how many members changed their state
-- TTL      KEYS[2] is kept ARGV[5] seconds after its last change
-- Clock    the server's; a rest's end only moves outward
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local seconds = tonumber(ARGV[1])
local changed = 0
for i = 6, #ARGV do
  local member = ARGV[i]
  local field = ARGV[4] == '' and member or (member .. '|' .. ARGV[4])
  if seconds == 0 then
    changed = changed + redis.call('HDEL', KEYS[2], member, field)
  else
    local until_us = now + seconds * 1000000
    local since_us = now
    local before = redis.call('HGET', KEYS[2], field)
    if before then
      local rest = cjson.decode(before)
      if rest['state'] == ARGV[2] and rest['until_us'] > now then since_us = rest['since_us'] end
      if rest['until_us'] > until_us then until_us = rest['until_us'] end
    end
    redis.call('HSET', KEYS[2], field, cjson.encode({
      state = ARGV[2], fault = ARGV[3], since_us = since_us, until_us = until_us }))
    redis.call('EXPIRE', KEYS[2], ARGV[5])
    if ARGV[4] == '' and redis.call('ZSCORE', KEYS[1], member) then
      redis.call('ZADD', KEYS[1], 'GT', until_us, member)
    end
    if since_us == now then changed = changed + 1 end
  end
end
return changed
