-- Release a lease, with what its call reports on the key, the account and the upstream.
-- ARGV[1]  id of the lease
-- ARGV[2]  JSON, the report; all optional but account, key, fingerprint and model:
--          is_unsent: nothing was sent; later_us: time from the lease to the sending; images, usd_micros: delivered
--          alert_usd_micros: deliveries of the account in a day at which an event is appended, once a day. Calls whose
--          process died count nothing; a release that a journal repeats counts, and leaves the event to the next one
--          is_success; or error_code, with scope (key, model, account, upstream), state, seconds, seconds_max (the same
--          error again, with no success between, doubles up to this) and busy if it starts a cooldown
--          is_unauthorized: if every key has this error, it is the configuration's
--          breaker: "ill" or "well"; lowers: "rate", "concurrency" or "growth"
-- Returns  JSON: decision "released"
local ACCUSATIONS = 3       -- errors that one tenant's calls must meet while others are here
local TENANTS_MAX = 1000    -- of which `served` and `ailing` know how their calls ended
local id, report = ARGV[1], cjson.decode(ARGV[2])
local lease = lease_of(id)
local tenant = lease and lease.o
local member = report.account .. '/' .. report.key
local FIELD = {key = member, model = member .. '|' .. report.model, account = report.account, upstream = '*'}
read_cooldowns({FIELD.key, FIELD.model, FIELD.account, FIELD.upstream})

-- Adds a tenant to a list of some.
local function add_tenant(list)
  if #list < ACCUSERS_MAX and not set_of(list)[tenant] then table.insert(list, tenant) end
end

-- Whether only some tenants fail, this one too, while others are served: their prompts are to blame, not the upstream.
local function are_others_served()
  redis.call('ZREMRANGEBYSCORE', K.served, '-inf', now - MINUTE)
  return redis.call('ZCARD', K.served) > (redis.call('ZSCORE', K.served, tenant) and 1 or 0)
end

-- Whether other tenants are served or wait.
local function are_others_here()
  local own = redis.call('HMGET', K.waits, 'i:' .. tenant, 'b:' .. tenant)
  local waiting = setting('waiting_i') + setting('waiting_b')
  return are_others_served() or waiting > (tonumber(own[1]) or 0) + (tonumber(own[2]) or 0)
end

local function cool(field, state, new)
  move(field, state == 'quarantined' and 'quarantine' or 'cool', new)
  local cooldown, model = cooldowns[field], string.match(field, '|(.+)$')
  redis.call(cooldown and cooldown.by and 'SADD' or 'SREM', touch(model and 'blamed:' .. model or 'blamed'), field)
end

-- If no key of the upstream is left, and several were refused at once, or again after an alarm, the upstream cools down
-- in the place of its keys; for all tenants if all the keys did for all.
local function check_alarm()
  local names, count, lately, tenants, by = redis.call('HKEYS', K.members), 0, 0, {}, {}
  for _, name in ipairs(names) do
    read_keys({name})
    for _, key in ipairs((holds[name] or is_out(cooldowns[name])) and {} or accounts[name].record.keys) do
      local cooldown = not holds[key.member] and cooldowns[key.member]
      if not holds[key.member] and not is_out(cooldown) then return end
      if cooldown and cooldown.error_code == report.error_code then
        count = count + 1
        for _, one in ipairs(cooldown.by or {}) do tenants[one] = true end
        if cooldown.since_us >= now - MINUTE then lately = lately + 1 end
      end
    end
  end
  local upstream = cooldowns['*']
  if count <= 1 or not (lately > 1 or upstream and upstream.error_code == report.error_code) then return end
  for _, name in ipairs(names) do
    local a = accounts[name]
    for _, key in ipairs(a.record.keys) do drop_cooldown(name .. '/' .. key.name) end
    put_back(a)
  end
  for one in pairs(tenants) do by[#by + 1] = one end
  by = #by > 0 and by or nil
  cool('*', 'quarantined', {error_code = report.error_code, seconds = 60, seconds_max = 900, by = by})
end

-- A request can provoke an error that seems to be a key's. While other tenants are active, two tenants must meet it, or
-- one several times without a success in between, before a cooldown starts. Another tenant may then try it (see
-- lease.lua), until enough have met the error to rule out the prompt. A busy account cools down for all.
local function blame()
  local field, upstream = FIELD[report.scope], cooldowns['*']
  local is_in_alarm = report.is_unauthorized and upstream and upstream.error_code == report.error_code
  if is_in_alarm and lease and lease.t <= upstream.since_us then return end  -- that its key is refused is no news
  if lease and not report.busy then
    local kept = redis.call('HGET', K.accused, field)
    local found = kept and cmsgpack.unpack(kept) or {n = 0, by = {}}
    found.n = found.n + 1
    add_tenant(found.by)
    redis.call('HSET', touch('accused'), field, cmsgpack.pack(found))
    if #found.by == 1 and found.n < ACCUSATIONS and are_others_here() then return end
    report.by = #found.by < ACCUSERS_MAX and found.by or nil
  end
  cool(field, report.state, report)
  if report.is_unauthorized then check_alarm() end
end

-- Each tenant may then try the upstream before its time, but for this one, until its calls have failed twice.
local function open_breaker(seconds, met)
  add_tenant(met)
  move('*', 'cool', {error_code = report.error_code, seconds = seconds, seconds_max = seconds, ill = true, met = met})
  redis.call('HSET', touch('ailing'), tenant, 2)
end

-- A call that tried the upstream failed: that lengthens the cooldown, unless it was tried before its time.
local function fail_trial(breaker, seconds)
  breaker.met = breaker.met or {}
  if breaker.resumes and breaker.resumes > now then
    breaker.until_us, breaker.resumes, breaker.probe, breaker.announced = breaker.resumes, nil, nil, nil
    add_tenant(breaker.met)
    save_cooldown('*', breaker)
    return emit('*', breaker.state, breaker.error_code)
  end
  redis.call('DEL', K.ailing)
  open_breaker(math.min(2 * breaker.seconds, 6 * seconds), breaker.met)
end

-- `served`: tenants that were served within a minute, and whose calls have not failed twice since. Another tenant's
-- success speaks against one tenant's failures.
local function update_breaker()
  local breaker, seconds = cooldowns['*'], setting('breaker_open_us') / 1000000
  if report.breaker == 'well' then
    if setting('failures') > 0 then set_meta('failures', 0) end
    if lease and report.is_success then
      redis.call('ZADD', touch('served'), now, tenant)
      redis.call('ZREMRANGEBYRANK', K.served, 0, -TENANTS_MAX - 1)
      redis.call('HDEL', K.ailing, tenant)
    end
    if breaker and breaker.probe == id and not report.scope then move('*', 'succeed') end  -- be it with a refusal
    return
  end
  if not lease or lease.t < setting('well_since') then return end  -- it was sent before the upstream was well again
  add_meta('failures', 1)
  if redis.call('HINCRBY', touch('ailing'), tenant, 1) > 1 then redis.call('ZREM', K.served, tenant) end
  if redis.call('HLEN', K.ailing) > TENANTS_MAX then redis.call('DEL', K.ailing) end
  if breaker then  -- half open: only its probe decides, not what was sent before
    if breaker.probe == id and not is_out(breaker) then fail_trial(breaker, seconds) end
  elseif setting('failures') >= setting('breaker_failures') and not are_others_served() then
    local met = {}
    each_field(K.ailing, function(one, failures)
      if tonumber(failures) > 1 and #met < ACCUSERS_MAX then met[#met + 1] = one end
    end)
    open_breaker(seconds, met)
  end
end

local is_counted = lease or redis.call('ZREM', K.lapsed, id) == 1  -- once, also if it is reported twice
local a, is_ours = lease and give_back(id, lease, report.is_unsent or lease.g) or accounts[report.account], false
if lease and report.is_unsent then
  retract(lease.q .. ':' .. tenant)
elseif lease and report.later_us and a and not lease.l then
  count_at(a, lease, math.min(now, lease.t + report.later_us))
end
if lease and report.is_success then  -- how long calls last, for forecasts
  local took = math.max(0, now - lease.t)
  set_meta('call_us', math.floor(meta.call_us and 0.8 * setting('call_us') + 0.2 * took or took))
end
if report.breaker then update_breaker() end
for _, key in ipairs(a and a.record and a.record.keys or {}) do
  is_ours = is_ours or key.name == report.key and key.fingerprint == report.fingerprint
end
for _, field in pairs(is_ours and FIELD or {}) do  -- a success ends cooldowns, another end only the trial
  local cooldown = cooldowns[field]
  if cooldown and report.is_success then
    move(field, 'succeed')
  elseif cooldown and cooldown.probe == id then
    move(field, 'inconclusive')
  end
end
if is_ours and report.is_success then
  redis.call('HDEL', K.accused, FIELD.key, FIELD.model, FIELD.account, FIELD.upstream)
end
if is_ours and report.scope and is_counted then blame() end

-- Another client uses the account too, or it allows less than was thought: less than what was sent in the last minute,
-- but no error takes away more than half.
if is_ours and report.lowers == 'concurrency' then
  local load, concurrency = a.load, concurrency_of(a)
  local less = math.max(math.floor(concurrency / 2), math.min(concurrency - 1, load.in_flight))
  load.concurrency, load.concurrency_at = math.max(1, less), now
elseif is_ours and report.lowers then
  local rate = rate_of(a)
  local sent = report.lowers == 'growth' and 0 or math.min(rate, a.requests) - 1
  a.load.rate, a.load.rate_at = math.max(1, math.floor(rate / 2), sent), now
end
if report.images and is_counted then
  redis.call('HINCRBY', touch('day'), report.account .. '|images', report.images)
  local spent = redis.call('HINCRBY', touch('day'), report.account .. '|usd_micros', report.usd_micros)
  local limit = tonumber(report.alert_usd_micros)
  if limit and spent >= limit and redis.call('HSETNX', K.day, report.account .. '|alerted', 1) == 1 then
    local day = string.gsub(string.match(K.day, '%d+$'), '^(%d%d%d%d)(%d%d)(%d%d)$', '%1-%2-%3')
    append_pool_event('upstream.spend_threshold_crossed',
      {account = report.account, day = day, used = dollars(spent), limit = dollars(limit)})
  end
end
if a then put_back(a) end
if lease and report.is_success then end_outages(report.model, lease.t) end
if report.scope or report.breaker == 'ill' then begin_outage(report.model) end
apply_time()
dispatch_freed()
return reply({decision = 'released'})
