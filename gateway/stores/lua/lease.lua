-- Lease the key of one upstream that has rested longest.
-- KEYS[1]  turns: sorted set, member "account/key", score the microsecond (Unix) from which the key may be leased next;
--          a lease sets it to now, so the lowest score is the least recently used key; a fault moves it into the future
-- KEYS[2]  rests: hash, member -> JSON of the fault that made the key rest; "member|model" -> the same, for one model only
-- ARGV[1]  the upstream's name of the model
-- ARGV[2]  time to live of KEYS[1], seconds
-- ARGV[3..] avoided: members, or "account/" for a whole account
-- Returns  {member, rest JSON or ""} or, where no key is free, {"", wait, rest}: microseconds until the first key is free
--          and the rest JSON of that key or ""; a wait of -1 says that every key is avoided, -2 that the pool is empty
-- TTL      KEYS[1] is kept ARGV[2] seconds after its last use
-- Clock    the server's
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local avoided = {}
for i = 3, #ARGV do avoided[ARGV[i]] = true end

local soonest, reason = nil, ''
local start = 0
while true do
  local page = redis.call('ZRANGE', KEYS[1], start, start + 15, 'WITHSCORES')
  if #page == 0 then break end
  for i = 1, #page, 2 do
    local member, free_at = page[i], tonumber(page[i + 1])
    local is_avoided = avoided[member] or avoided[string.match(member, '^[^/]*/')]
    local rest = redis.call('HMGET', KEYS[2], member, member .. '|' .. ARGV[1])
    if rest[2] then
      local model_rest = cjson.decode(rest[2])
      if model_rest['until_us'] > free_at then free_at, rest[1] = model_rest['until_us'], rest[2] end
    end
    if not is_avoided and free_at <= now then
      redis.call('ZADD', KEYS[1], now, member)
      redis.call('EXPIRE', KEYS[1], ARGV[2])
      return {member, rest[1] or ''}
    end
    if free_at > now and (soonest == nil or free_at < soonest) then
      soonest, reason = free_at, rest[1] or ''
    end
  end
  if tonumber(page[#page]) > now then break end
  start = start + 16
end
if start == 0 and redis.call('EXISTS', KEYS[1]) == 0 then return {'', -2, ''} end
return {'', soonest and (soonest - now) or -1, reason}
