-- Append events about a tenant that time brings about, each once: a process may check again what another has reported.
-- KEYS[1]  the tenant's events: stream, see tenants/lua/streams.lua; its name without "events" is the BASE of
--          BASE .. "notice:NAME": string, what was last reported under a name
-- ARGV[1]  JSON: list of name, value, type and data (JSON); an event is appended if the value of its name is new
-- Returns  the number of appended events
-- TTL      notices 40 days: longer than a month, and than the first notice of a key precedes its expiry
-- Clock    the server's
local KEPT_S = 40 * 86400
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local base, appended = string.sub(KEYS[1], 1, -7), 0
redis.call('XLEN', KEYS[1])
for _, notice in ipairs(cjson.decode(ARGV[1])) do
  local name = base .. 'notice:' .. notice[1]
  if redis.call('GET', name) ~= notice[2] then
    append_event(KEYS[1], notice[3], now_ms, notice[4])
    redis.call('SET', name, notice[2], 'EX', KEPT_S)
    appended = appended + 1
  end
end
return appended
