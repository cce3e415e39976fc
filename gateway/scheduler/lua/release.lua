-- Give a lease back, with what its call tells of the key, the account and the upstream.
-- ARGV[1]  id of the lease
-- ARGV[2]  JSON, the decision on the call; all optional but account, key, fingerprint and model:
--          is_unsent: nothing was sent; later_us: time from the lease to the sending
--          is_success; or error_code with, where something rests: scope (key, model, account, upstream), state, seconds,
--          seconds_max (the same error_code again, with no success between, doubles up to this), busy
--          is_unauthorized: if every key has this error_code, it is the configuration's
--          breaker: "ill" or "well"; lowers: "rate", "lanes" or "growth"; images, usd_micros: delivered
-- Returns  JSON: decision "released"
if not meta.version then return reply({decision = 'unknown'}) end
local id, said = ARGV[1], cjson.decode(ARGV[2])
local lease = lease_of(id)
local member = said.account .. '/' .. said.key
local FIELD = {key = member, model = member .. '|' .. said.model, account = said.account, upstream = '*'}
read_rests({FIELD.key, FIELD.model, FIELD.account, FIELD.upstream})
local ACCUSERS_MAX = 8      -- tenants that meet an error code before it is no prompt's for all others too
local ACCUSATIONS = 3       -- error_codes that one tenant's calls must meet while others are here

local function list_of(set)
  local found = {}
  for name in pairs(set) do found[#found + 1] = name end
  return found
end

local function is_our_key(a)
  if not a or not a.record then return false end
  for _, key in ipairs(a.record.keys) do
    if key.name == said.key then return key.fingerprint == said.fingerprint end
  end
  return false
end

-- What the call's success does to everything that it used.
local function succeed()
  for _, field in pairs(FIELD) do
    if rest_at(field) then move(field, 'succeed') end
  end
  redis.call('HDEL', K.accused, FIELD.key, FIELD.model, FIELD.account, FIELD.upstream)
end

-- The trial of a half-open rest is over without a decision: the next may try.
local function end_trials()
  for _, field in pairs(FIELD) do
    local rest = rest_at(field)
    if rest and rest.probe == id then move(field, 'inconclusive') end
  end
end

-- Tenants of which `served` and `ailing` know how their calls ended.
local TENANTS_MAX = 1000

-- Tenants that were served within a minute, and whose calls have not failed twice since. Another tenant's success speaks
-- against one tenant's failures.
local function note_served(tenant)
  redis.call('ZADD', touch('served'), now, tenant)
  redis.call('ZREMRANGEBYRANK', K.served, 0, -TENANTS_MAX - 1)
  redis.call('HDEL', K.ailing, tenant)
end

local function note_ailing(tenant)
  if redis.call('HINCRBY', touch('ailing'), tenant, 1) > 1 then redis.call('ZREM', K.served, tenant) end
  if redis.call('HLEN', K.ailing) > TENANTS_MAX then redis.call('DEL', K.ailing) end
end

-- Whether only some tenants fail, this one too, while others are served: their prompts are to blame, not the upstream.
local function are_others_served(tenant)
  redis.call('ZREMRANGEBYSCORE', K.served, '-inf', now - MINUTE)
  return redis.call('ZCARD', K.served) > (redis.call('ZSCORE', K.served, tenant) and 1 or 0)
end

-- Whether other tenants are served or wait.
local function are_others_here()
  local own = redis.call('HMGET', K.waits, 'i:' .. lease.o, 'b:' .. lease.o)
  return are_others_served(lease.o) or waiting('i') + waiting('b') > (tonumber(own[1]) or 0) + (tonumber(own[2]) or 0)
end

-- No key of the upstream is left, and several were refused at once, or again after an alarm. Returns that, the accounts, and
-- the tenants whose calls alone are the reason for some of the rests.
local function are_all_refused()
  local names, count, lately, by = redis.call('HKEYS', K.roster), 0, 0, {}
  for _, name in ipairs(names) do
    local standing = standing_of(account(name))
    if not standing.held and not is_out(rest_at(name)) then
      for _, one in ipairs(standing.keys) do
        if not one.held then
          local rest = rest_at(one.member)
          if not is_out(rest) then return false end
          if rest.error_code == said.error_code then
            count = count + 1
            for _, tenant in ipairs(rest.by or {}) do by[tenant] = true end
            if rest.since_us >= now - MINUTE then lately = lately + 1 end
          end
        end
      end
    end
  end
  local star = rest_at('*')
  return count > 1 and (lately > 1 or (star and star.error_code == said.error_code)), names, list_of(by)
end

local function put_to_rest(field, event, error_code)
  move(field, event, error_code)
  local rest, model = rest_at(field), string.match(field, '|.+$')
  redis.call(rest and rest.by and 'SADD' or 'SREM', touch('blamed' .. (model and ':' .. string.sub(model, 2) or '')), field)
end

-- Let the upstream rest in the place of its keys; for all tenants if all the keys rested for all.
local function raise_alarm(names, by)
  for _, name in ipairs(names) do
    local a = account(name)
    for _, key in ipairs(a.record.keys) do drop_rest(name .. '/' .. key.name) end
    put_back(a)
  end
  put_to_rest('*', 'quarantine', {error_code = said.error_code, seconds = 60, seconds_max = 900, by = #by > 0 and by or nil})
end

-- Whether a call was sent before the alarm that was raised for its error_code: that its key was refused is no news.
local function is_in_alarm()
  local star = said.is_unauthorized and rest_at('*')
  return lease and star and star.error_code == said.error_code and lease.t <= star.since_us
end

-- Note that a tenant's call met an error code there. Returns what `accused` has of it.
local function accuse(field, tenant)
  local kept = redis.call('HGET', K.accused, field)
  local found = kept and cmsgpack.unpack(kept) or {n = 0, by = {}}
  found.n = found.n + 1
  if #found.by < ACCUSERS_MAX and not set_of(found.by)[tenant] then table.insert(found.by, tenant) end
  redis.call('HSET', touch('accused'), field, cmsgpack.pack(found))
  return found
end

-- A request can provoke an error code that seems to be a key's. While other tenants are here, two tenants must meet it, or one
-- several times, with no success between, before anything rests. Another tenant may then try it (see lease.lua), until so
-- many have met the error_code that it is no prompt's. An account that is busy rests for all.
local function note_fault()
  if is_in_alarm() then return end
  local field = FIELD[said.scope]
  if lease and lease.o and not said.busy then
    local found = accuse(field, lease.o)
    if #found.by == 1 and found.n < ACCUSATIONS and are_others_here() then return end
    said.by = #found.by < ACCUSERS_MAX and found.by or nil
  end
  put_to_rest(field, said.state == 'quarantined' and 'quarantine' or 'cool', said)
  if not said.is_unauthorized then return end
  local are_all, names, by = are_all_refused()
  if are_all then raise_alarm(names, by) end
end

-- The tenants whose calls have failed again and again.
local function all_ailing()
  local kept, found = redis.call('HGETALL', K.ailing), {}
  for i = 1, #kept, 2 do
    if tonumber(kept[i + 1]) > 1 and #found < ACCUSERS_MAX then found[#found + 1] = kept[i] end
  end
  return found
end

-- Each tenant may then try the upstream before its time, but for this one, until its calls have failed twice.
local function open_breaker(seconds, met)
  if lease.o and #met < ACCUSERS_MAX and not set_of(met)[lease.o] then met[#met + 1] = lease.o end
  move('*', 'cool', {error_code = said.error_code, seconds = seconds, seconds_max = seconds, ill = true, met = #met > 0 and met or nil})
  if lease.o then redis.call('HSET', touch('ailing'), lease.o, 2) end
end

-- A call that tried the upstream failed: that lengthens the rest, unless it was tried before its time.
local function fail_trial(star, seconds)
  if star.resumes and star.resumes > now then
    star.until_us, star.resumes, star.probe, star.told = star.resumes, nil, nil, nil
    if star.met and #star.met < ACCUSERS_MAX and not set_of(star.met)[lease.o] then table.insert(star.met, lease.o) end
    keep_rest('*', star)
    return tell('*', star.state, star.error_code)
  end
  redis.call('DEL', K.ailing)
  open_breaker(math.min(2 * star.seconds, 6 * seconds), star.met or {})
end

local function mind_breaker()
  local star = rest_at('*')
  if said.breaker == 'well' then
    if setting('failures') > 0 then set_meta('failures', 0) end
    if lease and lease.o and said.is_success then note_served(lease.o) end
    if star and star.probe == id and not said.scope then move('*', 'succeed') end  -- be it with a refusal
    return
  end
  if not lease or lease.t < setting('well_since') then return end  -- it was sent before the upstream was well again
  local failures = setting('failures') + 1
  set_meta('failures', failures)
  if lease.o then note_ailing(lease.o) end
  local seconds = setting('breaker_open_us') / 1000000
  if star and is_out(star) then return end
  if star then  -- half open: only its probe decides, not what was sent before
    if star.probe == id then fail_trial(star, seconds) end
  elseif failures >= setting('breaker_failures') and not are_others_served(lease.o) then
    open_breaker(seconds, all_ailing())
  end
end

-- Another client uses the account too, or it allows less than was thought: less than what was sent in the last minute, but
-- no error_code takes away more than half.
local function lower(a)
  local load = a.load
  if said.lowers == 'lanes' then
    local lanes = lanes_of(a)
    load.lanes, load.lanes_at = math.max(1, math.floor(lanes / 2), math.min(lanes - 1, load.flying)), now
    return
  end
  local rate = rate_of(a)
  local sent = said.lowers == 'growth' and 0 or math.min(rate, a.requests) - 1
  load.rate, load.rate_at = math.max(1, math.floor(rate / 2), sent), now
end

local function take_back()
  local a
  local is_counted = lease or redis.call('ZREM', K.lapsed, id) == 1  -- once, also if it is reported twice
  if lease then
    a = give_back(id, lease, said.is_unsent or lease.g)
    if said.is_unsent and lease.q then retract(lease.q .. ':' .. lease.o) end
    if a and said.later_us and not said.is_unsent and not lease.l then
      count_at(a, lease, math.min(now, lease.t + said.later_us))
    end
  end
  if lease and said.is_success then  -- how long calls last, for forecasts
    local took = math.max(0, now - lease.t)
    set_meta('call_us', math.floor(meta.call_us and 0.8 * setting('call_us') + 0.2 * took or took))
  end
  a = a or account(said.account)
  if said.breaker then mind_breaker() end
  if is_our_key(a) then
    if said.is_success then succeed() else end_trials() end
    if said.scope and is_counted then note_fault() end
    if said.lowers then lower(a) end
  end
  if said.images and is_counted then
    redis.call('HINCRBY', touch('day'), said.account .. '|images', said.images)
    redis.call('HINCRBY', touch('day'), said.account .. '|usd_micros', said.usd_micros)
  end
  if a then put_back(a) end
end

take_back()
look_after()
dispatch_freed()
return reply({decision = 'released'})
