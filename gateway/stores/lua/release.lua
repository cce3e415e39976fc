-- Give keys back after a call: clear the rest of a healthy one, or let the ones that a fault names rest.
-- KEYS[1]  turns, KEYS[2] rests: see lease.lua
-- ARGV[1]  seconds to rest; 0 clears rests that are over, for the key and for the model
-- ARGV[2]  seconds at the most: the same fault again, with no success between, doubles the rest up to this
-- ARGV[3]  state, ARGV[4] fault, ARGV[5] model or "" for every model
-- ARGV[6]  time to live of both, seconds
-- ARGV[7..] members
-- Returns  how many members changed their state
-- TTL      both are kept ARGV[6] seconds after the last change
-- Clock    the server's; a rest's end only moves outward
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local asked = tonumber(ARGV[1])
local changed = 0

local function rest_of(field)
  local kept = redis.call('HGET', KEYS[2], field)
  return kept and cjson.decode(kept)
end

local function clear(field)
  local rest = rest_of(field)
  if rest and rest['until_us'] <= now then changed = changed + redis.call('HDEL', KEYS[2], field) end
end

for i = 7, #ARGV do
  local member = ARGV[i]
  local field = ARGV[5] == '' and member or (member .. '|' .. ARGV[5])
  if asked == 0 then
    clear(member)
    clear(field)
  else
    local seconds, since_us = asked, now
    local before = rest_of(field)
    if before and before['fault'] == ARGV[4] and before['until_us'] <= now then
      seconds = math.max(asked, math.min(2 * before['seconds'], tonumber(ARGV[2])))
    end
    local until_us = now + seconds * 1000000
    local is_resting = before and before['until_us'] > now
    if is_resting and before['state'] == ARGV[3] then since_us = before['since_us'] end
    if not is_resting or until_us > before['until_us'] then  -- the longer rest keeps its own reason
      redis.call('HSET', KEYS[2], field, cjson.encode({
        state = ARGV[3], fault = ARGV[4], seconds = seconds, since_us = since_us, until_us = until_us }))
      if ARGV[5] == '' and redis.call('ZSCORE', KEYS[1], member) then
        redis.call('ZADD', KEYS[1], 'GT', until_us, member)
      end
      if since_us == now then changed = changed + 1 end
    end
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('EXPIRE', KEYS[2], ARGV[6])
return changed
