-- Status of an upstream, for the admin API and metrics. O(accounts).
-- Returns  JSON: pool: the fields of PoolStatus (scheduler/status.py)
local UPSTREAM = string.match(base, '{pool:(.*)}:$')

local function rounded(number) return tonumber(string.format('%.0f', number)) end

-- Adds the fields of Health. A state set by an operator takes precedence.
local function with_health(found, held, cooldown)
  if held then
    found.state, found.since_s, found.held_by = held.state, rounded(held.since_us / 1e6), held.by
  elseif cooldown then
    found.state, found.error_code = state_of(cooldown), cooldown.error_code
    found.since_s, found.until_s = rounded(cooldown.since_us / 1e6), rounded(cooldown.until_us / 1e6)
    local is_provoked = cooldown.ill and cooldown.error_code ~= 'connect_failed'  -- which no request causes
    found.others_may_try = cooldown.by ~= nil or is_provoked and #(cooldown.met or {}) < ACCUSERS_MAX
  end
  return found
end

for _ = 1, 100 do
  if not apply_time() then break end
end
local names, fields = redis.call('HKEYS', K.members), redis.call('HKEYS', K.health)
read_keys(names)
read_cooldowns(fields)
local today, models, accounts_found, free = {}, {}, {}, 0
each_field(K.day, function(field, value) today[field] = tonumber(value) end)
for _, field in ipairs(fields) do
  local member, model = string.match(field, '^([^|]*)|(.+)$')
  if member then models[member] = model end
end
table.sort(names)
for i, name in ipairs(names) do
  local a, keys = accounts[name], {}
  local limits, load = a.record, a.load
  for j, key in ipairs(limits.keys) do
    local is_out_for_all = holds[key.member] or cooldowns[key.member]
    local model = not is_out_for_all and models[key.member] or nil
    local cooldown = cooldowns[model and key.member .. '|' .. model or key.member]
    keys[j] = with_health({upstream = UPSTREAM, account = name, name = key.name, fingerprint = key.fingerprint,
      model = model, is_declared = not key.is_added}, holds[key.member], cooldown)
  end
  local rate, concurrency = rate_of(a), concurrency_of(a)
  accounts_found[i] = with_health({upstream = UPSTREAM, name = name, limits = limits, requests_per_minute_now = rate,
    max_concurrency_now = concurrency, requests_used = a.requests, images_used = a.images, in_flight = load.in_flight,
    images_today = today[name .. '|images'], usd_micros_today = today[name .. '|usd_micros'],
    keys = #keys > 0 and keys or nil}, holds[name], cooldowns[name])
  if key_of(a, {n = 1}) and gate() > 0 then
    local images = limits.images_per_minute - a.images
    free = free + math.max(0, math.min(rate - a.requests, concurrency - load.in_flight, images))
  end
end
local calls, retries = calls_lately()
local pool = with_health({upstream = UPSTREAM, waiting = redis.call('HLEN', K.waiters), free = free,
  calls_last_minute = rounded(calls), retries_last_minute = rounded(retries)}, nil, cooldowns['*'])
if #accounts_found > 0 then pool.accounts = accounts_found end  -- cjson encodes an empty list as an object
return reply({decision = 'open', pool = pool})
