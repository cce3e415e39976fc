-- Leases, and what time brings: outages of Redis, steps of its clock, expiry. Shared, after shares.lua.
--
-- A lease is {a = account, k = key, f = its fingerprint, o = tenant, n = images, t = moment, s = number of its entry in
-- the log, r = repeats, q = priority, g = granted, l = shifted}: granted is one that was given to a waiting request and
-- that its process has not taken yet; shifted one whose moment is already that of its sending.

-- After the clock was set back, what was begun later than now begins now: nothing lasts longer than it was to last.
-- Leases that were last renewed before a step forward and back again may look expired.
local function set_back()
  set_meta('grace_until', now + grace_us())
  for _, name in ipairs(redis.call('ZRANGE', K.timers, 0, -1)) do redis.call('ZADD', K.timers, now, name) end
  local longest = {leases = setting('lease_us'), processes = 2 * SILENCE, holders = MINUTE, used = 2 * window(),
    recent = 0, served = 0}
  -- A task is held for as long as its provider may need: its times go back with the clock.
  local function back(name, id) return now + math.max(0, redis.call('ZSCORE', name, id) - setting('seen_at')) end
  for _, id in ipairs(redis.call('ZRANGE', K.tasks_due, 0, -1)) do
    redis.call('ZADD', K.tasks_due, back(K.tasks_due, id), id)
  end
  for name, us in pairs(longest) do
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', K[name], '(' .. moment(now + us), '+inf')) do
      local is_task = name == 'leases' and redis.call('ZSCORE', K.tasks_due, member)
      redis.call('ZADD', K[name], is_task and back(K.leases, member) or now + us, member)
    end
  end
  for _, name in ipairs({'well_since', 'keeper_until', 'interactive_at', 'interactive_n_at'}) do
    if setting(name) > now then set_meta(name, now) end
  end
  for _, field in ipairs(redis.call('HKEYS', K.health)) do
    local cooldown = cooldowns[field]
    if cooldown.since_us > now then
      cooldown.until_us, cooldown.since_us = math.max(now, cooldown.until_us - cooldown.since_us + now), now
      cooldown.firm_us = cooldown.firm_us and math.min(cooldown.firm_us, cooldown.until_us)
      save_cooldown(field, cooldown)
    end
  end
end

-- `found`: see choose. `who`: {id, t = tenant, q = priority, w = weight, c = cost, n = images, r = repeats, g =
-- granted}. `is_paced`: it takes a step of the pace.
local function take(found, who, until_us, is_paced)
  local a, key, fields = unpack(found)
  if is_paced then
    local kind = who.q == 'b' and 'batch' or 'paced'
    a.load[kind .. '_at'] = math.min(now, math.max((pace_of(a, who.q == 'b')), now - 2 * SKEW))
    a.load[kind .. '_n'] = who.n
  end
  local lease = {a = a.name, k = key.name, f = key.fingerprint, n = who.n, t = now, s = add_entry(a, now, who.n),
    r = who.r, g = who.g, o = who.t, q = who.q}
  a.load.in_flight = a.load.in_flight + 1
  a.load.last[key.name], a.load.used_at = now, now
  fields[#fields + 1] = '*'
  for _, field in ipairs(fields) do
    local cooldown = cooldowns[field]
    if cooldown then
      cooldown.probe, cooldown.probe_us = who.id, now
      save_cooldown(field, cooldown)
    end
  end
  redis.call('HSET', touch('leased'), who.id, cmsgpack.pack(lease))
  redis.call('ZADD', touch('leases'), until_us, who.id)
  begin_call(who.q .. ':' .. who.t, who.w, who.c)
  put_back(a)
  return lease
end

local function lease_of(id)
  local kept = redis.call('HGET', K.leased, id)
  return kept and cmsgpack.unpack(kept)
end

-- Ends a lease; is_unsent gives the account its capacity back. Returns the account, for put_back.
local function give_back(id, lease, is_unsent)
  redis.call('HDEL', K.leased, id)
  redis.call('HDEL', K.grants, id)
  redis.call('ZREM', K.leases, id)
  if lease.q then note_flow(lease.q .. ':' .. lease.o, nil, -1, 0) end
  if setting('batch_waits') > 0 then  -- beside an account that is not full: for concurrency that it must leave
    is_freed = true
    set_meta('batch_waits', 0)
  end
  local a = accounts[lease.a]
  if not a then return nil end
  a.load.in_flight = math.max(0, a.load.in_flight - 1)
  if is_unsent then remove_entry(a, lease.s, lease.n) end
  return a
end

local function leased(id, lease, requested_us)
  return {decision = 'leased', account = lease.a, key = lease.k, fingerprint = lease.f,
    requested_us = requested_us and moment(requested_us)}
end

-- Counts a request as sent at t and not when it was leased; not at all if its minute is over.
local function count_at(a, lease, t)
  remove_entry(a, lease.s, lease.n)
  lease.t, lease.s = t, t > now - window() and add_entry(a, t, lease.n) or 0
end

-- Calls of the last minute, repeated ones apart: those of this minute of the clock, and of the one before in part.
local function calls_lately()
  local minute = math.floor(now / MINUTE)
  local age = minute - setting('minute')
  if age ~= 0 then
    for _, name in ipairs({'members', 'declared', 'digests'}) do touch(name) end  -- read only, yet in use
    for _, name in ipairs({'calls', 'retries'}) do
      set_meta(name .. '_before', age == 1 and setting(name) or 0)
      set_meta(name, 0)
    end
    set_meta('minute', minute)
  end
  local rest = 1 - (now % MINUTE) / MINUTE
  return setting('calls') + rest * setting('calls_before'), setting('retries') + rest * setting('retries_before')
end

local function count_call(is_retry)
  calls_lately()
  add_meta('calls', 1)
  if is_retry then add_meta('retries', 1) end
end

-- Begins the call of a granted lease: the account's minute is counted from here.
local function claim(id, lease, until_us, requested_us)
  local a = accounts[lease.a]
  count_at(a, lease, now)
  lease.g = nil
  redis.call('HDEL', K.grants, id)
  redis.call('HSET', touch('leased'), id, cmsgpack.pack(lease))
  redis.call('ZADD', touch('leases'), until_us, id)
  count_call(lease.r > 0)
  put_back(a)
  return leased(id, lease, requested_us)
end

-- Expires leases that were not renewed, and gives accounts their capacity back; after an outage, or a step of the clock
-- forward, their processes renew them first. Returns whether there is more to do.
local function apply_time()
  local LAPSED_KEPT, LAPSED_MAX = 24 * 60 * MINUTE, 10000
  local DUE_MAX = 4  -- accounts that one call looks at again
  local seen, lease_us = setting('seen_at'), setting('lease_us')
  if seen > now + SKEW then
    set_back()
  elseif seen > 0 and lease_us > 0 and now - seen > lease_us / 4 + SILENCE then
    set_meta('grace_until', now + grace_us())
  end
  if seen == 0 or math.abs(now - seen) > SKEW then set_meta('seen_at', now) end
  forget_flows()
  local ended = in_grace() and {} or redis.call('ZRANGEBYSCORE', K.leases, '-inf', now, 'LIMIT', 0, BATCH)
  for _, id in ipairs(ended) do
    local lease = lease_of(id)
    if lease and not lease.g then  -- it may yet be released, by a process that was cut off: its call counts then, once
      redis.call('ZADD', touch('lapsed'), now, id)
      redis.call('ZREMRANGEBYSCORE', K.lapsed, '-inf', now - LAPSED_KEPT)
      redis.call('ZREMRANGEBYRANK', K.lapsed, 0, -LAPSED_MAX - 1)
    end
    local a = lease and give_back(id, lease, lease.g)
    if a then put_back(a) end
    if not lease then redis.call('ZREM', K.leases, id) end
  end
  local due = redis.call('ZRANGEBYSCORE', K.timers, '-inf', now, 'LIMIT', 0, DUE_MAX)
  for _, name in ipairs(due) do
    if accounts[name] then put_back(accounts[name]) else redis.call('ZREM', K.timers, name) end
  end
  return #ended == BATCH or #due == DUE_MAX
end
