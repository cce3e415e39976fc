-- Give back a tenant's quota in the current day and month, with its audit entry. The sums of the ledger, and so the bill,
-- do not change: the windows have credited_images and credited_usd_micros, which admit.lua subtracts from what is used.
-- KEYS[1]  the tenant's record: hash; its name without "tenant" is the BASE of the names below, of the same hash tag
-- KEYS[2]  the tenant's audit log: stream, see tenants/lua/streams.lua
--          BASE .. "day:YYYYMMDD", "month:YYYYMM": see admit.lua, events.lua; BASE .. "credit:ID": hash, credit and reply
-- ARGV[1]  JSON: one of images, usd_micros and reset ("images_per_day", "images_per_month" or "usd_micros_per_month": all
--          that was charged); month (YYYYMM; images count in it alone then) or ""; reason; id, or "" for none
-- ARGV[2]  offsets of the time zone, see windows.lua
-- ARGV[3..5] actor, request ID, retention of the audit log in seconds
-- Returns  JSON: decision "unknown" (no such tenant), "no_window" (no usage in that month), "reused" (the ID belongs to
--          another credit), or "credited" with day, month and credited, and with is_repeated if the ID had been
--          used for the same credit
-- TTL      day 3 days, month 40 days, as in admit.lua; the credit's ID 40 days
-- Clock    the server's
local KEPT_S = {day = 3 * 86400, month = 40 * 86400}
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local base = string.sub(KEYS[1], 1, -7)
local credit, calendar = cjson.decode(ARGV[1]), windows_at(tonumber(time[1]), ARGV[2])
local month = credit.month ~= '' and credit.month or calendar.month
local names = {day = base .. 'day:' .. calendar.day, month = base .. 'month:' .. month}

if redis.call('EXISTS', KEYS[1]) == 0 then return cjson.encode({decision = 'unknown'}) end
local id = base .. 'credit:' .. credit.id
local known = credit.id ~= '' and redis.call('HMGET', id, 'credit', 'reply')
if known and known[1] then
  if known[1] ~= ARGV[1] then return cjson.encode({decision = 'reused'}) end
  local reply = cjson.decode(known[2])
  reply.is_repeated = true
  return cjson.encode(reply)
end
if month ~= calendar.month and redis.call('EXISTS', names.month) == 0 then
  return cjson.encode({decision = 'no_window'})
end

-- Returns what is credited in the day and the month.
local function state()
  local found = {}
  for period, name in pairs(names) do
    local credited = redis.call('HMGET', name, 'credited_images', 'credited_usd_micros')
    found['images_per_' .. period] = tonumber(credited[1] or 0)
    if period == 'month' then found.usd_per_month = dollars(tonumber(credited[2] or 0)) end
  end
  return found
end

local function give(period, measure, amount)
  redis.call('HINCRBY', names[period], 'credited_' .. measure, amount)
  redis.call('EXPIRE', names[period], KEPT_S[period])
end

redis.call('XLEN', KEYS[2])
local before = state()
if credit.reset then
  for _, reset in ipairs(QUOTAS) do
    if reset.limit == credit.reset then
      local found = redis.call('HMGET', names[reset.period], 'charged_' .. reset.measure, 'credited_' .. reset.measure)
      give(reset.period, reset.measure, math.max(0, (found[1] or 0) - (found[2] or 0)))
      for _, quota in ipairs(QUOTAS) do
        if quota.period == reset.period and quota.measure == reset.measure then
          redis.call('HDEL', names[reset.period], 'alerted:' .. quota.limit, 'exhausted:' .. quota.limit)
        end
      end
    end
  end
elseif credit.usd_micros then
  give('month', 'usd_micros', credit.usd_micros)
else
  give('month', 'images', credit.images)
  if credit.month == '' then give('day', 'images', credit.images) end
end

local after = state()
after.reason, after.reset = credit.reason, credit.reset
if credit.id ~= '' then after.id = credit.id end
append_audit(KEYS[2], now_ms, tonumber(ARGV[5]), 'tenant.credit', ARGV[3], ARGV[4], '', cjson.encode(before),
  cjson.encode(after))
local reply = cjson.encode({decision = 'credited', day = calendar.day, month = month, credited = state()})
if credit.id ~= '' then
  redis.call('HSET', id, 'credit', ARGV[1], 'reply', reply)
  redis.call('EXPIRE', id, KEPT_S.month)
end
return reply
