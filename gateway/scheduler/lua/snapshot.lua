-- Status of an upstream, for the admin API and metrics, some accounts at a time.
-- ARGV[1]  cursor: "0" at first, then that of the reply before, until it is "0" again
-- Returns  JSON: pool: the fields of PoolStatus (scheduler/status.py), its accounts those of this page; cursor.
--          An account may be on two pages
local ACCOUNTS = 25  -- of a page, about
local UPSTREAM = string.match(base, '{pool:(.*)}:$')

local WAITERS_MAX = 10000  -- in which the longest wait is searched: 1,000 take 0.5 ms

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

-- Seconds that the interactive request waits which came first; nil if none waits.
local function oldest_wait_s()
  local oldest, waiting = math.huge, setting('waiting_i') > 0
  for _, line in ipairs(waiting and redis.call('ZRANGEBYLEX', K.queue, '[i', '(j', 'LIMIT', 0, WAITERS_MAX) or {}) do
    oldest = math.min(oldest, tonumber(string.match(line, '([^|]*)|[^|]*$')))
  end
  return oldest < math.huge and math.max(0, now - oldest) / 1e6 or nil
end

for _ = 1, ARGV[1] == '0' and 100 or 0 do
  if not apply_time() then break end
end
local cursor, page = unpack(redis.call('HSCAN', K.members, ARGV[1], 'COUNT', ACCOUNTS))
local names, usage, fields, accounts_found = {}, {}, {'*'}, {}
for i = 1, #page, 2 do
  local name = page[i]
  names[#names + 1], records[name] = name, cjson.decode(page[i + 1])
  usage[#usage + 1], usage[#usage + 2] = name .. '|images', name .. '|usd_micros'
end
read_keys(names)
for _, name in ipairs(names) do
  for _, key in ipairs(accounts[name].record.keys) do
    for _, model in ipairs(denied_models()) do fields[#fields + 1] = key.member .. '|' .. model end
  end
end
read_cooldowns(fields)
local today = #usage > 0 and redis.call('HMGET', K.day, unpack(usage))
for i, name in ipairs(names) do
  local a, keys = accounts[name], {}
  local limits, load = a.record, a.load
  for j, key in ipairs(limits.keys) do
    local cooldown, model = cooldowns[key.member], nil
    for _, denied in ipairs(not (holds[key.member] or cooldown) and denied_models() or {}) do
      local of_model = cooldowns[key.member .. '|' .. denied]
      if of_model then cooldown, model = of_model, denied end
    end
    keys[j] = with_health({upstream = UPSTREAM, account = name, name = key.name, fingerprint = key.fingerprint,
      model = model, is_declared = not key.is_added}, holds[key.member], cooldown)
  end
  local rate, concurrency, free = rate_of(a), concurrency_of(a), 0
  if key_of(a, {n = 1}) and gate() > 0 then
    local images = limits.images_per_minute - a.images
    free = math.max(0, math.min(rate - a.requests, concurrency - load.in_flight, images))
  end
  accounts_found[i] = with_health({upstream = UPSTREAM, name = name, limits = limits, requests_per_minute_now = rate,
    max_concurrency_now = concurrency, requests_used = a.requests, images_used = a.images, in_flight = load.in_flight,
    free = free, images_today = tonumber(today[2 * i - 1]), usd_micros_today = tonumber(today[2 * i]),
    keys = #keys > 0 and keys or nil}, holds[name], cooldowns[name])
end
local calls, retries = calls_lately()
local pool = with_health({upstream = UPSTREAM, waiting = setting('waiting_i'),
  waiting_batch = setting('waiting_b'), oldest_wait_s = oldest_wait_s(), call_s = setting('call_us') / 1e6,
  calls_last_minute = rounded(calls), retries_last_minute = rounded(retries)}, nil, cooldowns['*'])
if #accounts_found > 0 then pool.accounts = accounts_found end  -- cjson encodes an empty list as an object
return reply({decision = 'open', pool = pool, cursor = cursor})
