-- Status of an upstream, for the admin API and metrics. O(accounts).
-- Returns  JSON: rest: cooldown of the upstream; waiting, oldest_us: waiting requests and age of the first; calls, retries: of
--          the last minute; free: requests that could be sent now; accounts: a list with name, rate, lanes, used, images,
--          flying, held, rest, today and keys with held and rests
local found = {decision = 'open', waiting = redis.call('HLEN', K.places), accounts = {}, free = 0, now_us = moment(now)}
if not meta.version then return reply({decision = 'unknown'}) end
for _ = 1, 100 do
  if not look_after() then break end
end
found.rest = rest_at('*')
found.calls, found.retries = calls_lately()
local today = {}
do
  local kept = redis.call('HGETALL', K.day)
  for i = 1, #kept, 2 do today[kept[i]] = tonumber(kept[i + 1]) end
end

local function hold_in(text) return text and cjson.decode(text) or nil end

for _, name in ipairs(redis.call('HKEYS', K.roster)) do
  local a = account(name)
  local standing, limits = standing_of(a), a.record
  local one = {name = name, limits = limits, rate = rate_of(a), lanes = lanes_of(a), used = a.requests, images = a.images,
    flying = a.load.flying, held = hold_in(standing.held), rest = rest_at(name), keys = {},
    images_today = today[name .. '|images'] or 0, usd_micros_today = today[name .. '|usd_micros'] or 0}
  for i, other in ipairs(standing.keys) do
    one.keys[i] = {name = other.key.name, fingerprint = other.key.fingerprint, is_added = other.key.is_added,
      held = hold_in(other.held), rest = rest_at(other.member)}
  end
  if key_of(a, {n = 1}) and gate() > 0 then
    found.free = found.free + math.max(0, math.min(one.rate - one.used, one.lanes - one.flying,
      limits.images_per_minute - one.images))
  end
  found.accounts[#found.accounts + 1] = one
end
-- A cooldown of one model only, at its key.
found.models = {}
for field, rest in pairs(all_rests()) do
  local member, model = string.match(field, '^([^|]*)|(.+)$')
  if member then found.models[#found.models + 1] = {member = member, model = model, rest = rest} end
end
if #found.models == 0 then found.models = nil end
if #found.accounts == 0 then found.accounts = nil end
return reply(found)
