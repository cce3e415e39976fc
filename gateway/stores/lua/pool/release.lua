-- Give a lease back, with what its call tells of the key, the account and the upstream.
-- ARGV[1]  id of the lease
-- ARGV[2]  JSON, the verdict on the call; all optional but account, key, fingerprint and model:
--          is_unsent: nothing was sent; later_us: it was sent so much later than it was leased
--          is_success; or fault with, where something rests: scope (key, model, account, upstream), state, seconds,
--          seconds_max (the same fault again, with no success between, doubles up to this), busy
--          is_unauthorized: if every key has this fault, it is the configuration's
--          breaker: "ill" or "well"; lowers: "rate", "lanes" or "growth"; images, usd_micros: delivered
-- Returns  JSON: verdict "released"
if not meta.version then return reply({verdict = 'unknown'}) end
local id, said = ARGV[1], cjson.decode(ARGV[2])
local lease = lease_of(id)
local member = said.account .. '/' .. said.key
local FIELD = {key = member, model = member .. '|' .. said.model, account = said.account, upstream = '*'}
local ALARM_S, ALARM_MAX_S, ALARM_WITHIN = 60, 900, MINUTE

local function is_our_key(a)
  if not a or not a.record then return false end
  for _, key in ipairs(a.record.keys) do
    if key.name == said.key then return key.fingerprint == said.fingerprint end
  end
  return false
end

-- Let something rest, outwards only: the longer rest keeps its own reason.
local function let_rest(field, seconds, seconds_max, state, fault, busy)
  local before, since = rest_in(redis.call('HGET', K.health, field)), now
  if before and before.fault == fault and before.until_us <= now then
    seconds = math.max(seconds, math.min(2 * before.seconds, seconds_max))
  end
  local until_us = now + seconds * 1000000
  local is_resting = before and before.until_us > now
  if is_resting and before.state == state then since = before.since_us end
  if is_resting and until_us <= before.until_us then return end
  keep_rest(field, {state = state, fault = fault, seconds = seconds, since_us = since, until_us = until_us, busy = busy})
  if since == now then tell(field, state, fault) end
end

local function end_rests()
  for _, field in pairs(FIELD) do
    local rest = rest_in(redis.call('HGET', K.health, field))
    if rest and rest.until_us <= now then
      redis.call('HDEL', K.health, field)
      if field == '*' then set_meta('well_since', now) end
      tell(field, 'ready', '')
    end
  end
end

-- The trial of a half-open rest is over without a verdict: the next may try.
local function end_trials()
  for _, field in pairs(FIELD) do
    local rest = rest_in(redis.call('HGET', K.health, field))
    if rest and rest.probe == id then
      rest.probe = nil
      keep_rest(field, rest)
    end
  end
end

-- No key of the upstream is left, and several were refused at once, or again after an alarm.
local function are_all_refused()
  local names, count, lately = redis.call('HKEYS', K.roster), 0, 0
  for _, name in ipairs(names) do
    local a = account(name)
    local fields, kept, held = rests_of(a, nil)
    local rests = rest_in(kept[1])
    for i = 1, #a.record.keys do
      local rest = rest_in(kept[2 * i])
      if not held[1] and not held[i + 1] and not (rests and rests.until_us > now) then
        if not rest or rest.until_us <= now then return false end
        if rest.fault == said.fault then
          count = count + 1
          if rest.since_us >= now - ALARM_WITHIN then lately = lately + 1 end
        end
      end
    end
  end
  local star = rest_in(redis.call('HGET', K.health, '*'))
  return count > 1 and (lately > 1 or (star and star.fault == said.fault)), names
end

local function raise_alarm(names)
  for _, name in ipairs(names) do
    local a = account(name)
    for _, key in ipairs(a.record.keys) do redis.call('HDEL', K.health, name .. '/' .. key.name) end
    put_back(a)
  end
  let_rest('*', ALARM_S, ALARM_MAX_S, 'quarantined', said.fault)
end

-- Whether a call was sent before the alarm that was raised for its fault: that its key was refused is no news.
local function is_in_alarm()
  local star = said.is_unauthorized and rest_in(redis.call('HGET', K.health, '*'))
  return lease and star and star.fault == said.fault and lease.t <= star.since_us
end

local function note_fault()
  if is_in_alarm() then return end
  let_rest(FIELD[said.scope], said.seconds, said.seconds_max or 0, said.state, said.fault, said.busy)
  if said.is_unauthorized then
    local are_all, names = are_all_refused()
    if are_all then raise_alarm(names) end
  end
end

-- Who was served last, and who before that: another tenant's success speaks against one tenant's failures.
local function note_served(tenant)
  if meta.served ~= tenant then
    set_meta('served_before', meta.served or '')
    set_meta('served_before_at', meta.served_at or 0)
    set_meta('served', tenant)
  end
  set_meta('served_at', moment(now))
end

-- Whether all failures in a row are of one tenant, while others were served within a minute: its prompts are to blame.
local function is_one_tenants()
  if not meta.failing or meta.failing == '' then return false end
  local at = meta.served ~= meta.failing and setting('served_at') or setting('served_before_at')
  return at > now - MINUTE
end

local function mind_breaker()
  if said.breaker == 'well' then
    if setting('failures') > 0 then set_meta('failures', 0) end
    if lease and lease.o and said.is_success then note_served(lease.o) end
    local star = rest_in(redis.call('HGET', K.health, '*'))
    if star and star.probe == id and not said.scope then  -- it answers as it should, be it with a refusal
      redis.call('HDEL', K.health, '*')
      set_meta('well_since', moment(now))
      tell('*', 'ready', '')
    end
    return
  end
  if not lease or lease.t < setting('well_since') then return end  -- it was sent before the upstream was well again
  local failures, star = setting('failures') + 1, rest_in(redis.call('HGET', K.health, '*'))
  set_meta('failures', failures)
  if failures == 1 then set_meta('failing', lease.o) elseif meta.failing ~= lease.o then set_meta('failing', '') end
  local seconds = setting('breaker_open_us') / 1000000
  if star and star.until_us > now then return end
  if star then  -- half open: only its probe decides, not what was sent before
    local longer = math.min(2 * star.seconds, 6 * seconds)
    if star.probe == id then let_rest('*', longer, longer, 'cooling', said.fault) end
  elseif failures >= setting('breaker_failures') and not is_one_tenants() then
    let_rest('*', seconds, 0, 'cooling', said.fault)
  end
end

-- Somebody else uses the account too, or it allows less than was thought: less than what was sent in the last minute, but
-- no fault takes away more than half.
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

local a
if lease then
  a = give_back(id, lease, said.is_unsent or lease.g)
  if a and said.later_us and not said.is_unsent and not lease.l then
    cross_out(a, lease.t, lease.n)
    write_in(a, math.min(now, lease.t + said.later_us), lease.n)
  end
end
if lease and said.is_success then  -- how long calls last, for forecasts
  local took = now - lease.t
  set_meta('call_us', math.floor(meta.call_us and 0.8 * setting('call_us') + 0.2 * took or took))
end
a = a or account(said.account)
if said.breaker and meta.version then mind_breaker() end
if is_our_key(a) then
  if said.is_success then end_rests() else end_trials() end
  if said.scope then note_fault() end
  if said.lowers then lower(a) end
end
if said.images then
  redis.call('HINCRBY', touch('day'), said.account .. '|images', said.images)
  redis.call('HINCRBY', touch('day'), said.account .. '|usd_micros', said.usd_micros)
end
if a then put_back(a) end
look_after()
dispatch()
return reply({verdict = 'released'})
