-- Leases: taken, given back, ended by time. Shared, after time.lua.

-- A lease is {a = account, k = key, f = its fingerprint, o = tenant, n = images, t = moment, s = number of its entry in the
-- log, r = repeats, q = priority, g = granted, l = shifted}: granted is one that was given to a waiting request and that its
-- process has not taken yet; shifted one whose moment is already that of its sending.

-- `found`: see choose. `who`: {id, t = tenant, q = priority, w = weight, c = cost, n = images, r = repeats, g = granted}. `is_over`: it takes a step of the pace.
local function take(found, who, until_us, is_over)
  local a, key, trials = found[1], found[2], found[3]
  if is_over then
    local due = pace_of(a)
    a.load.paced_at, a.load.paced_n = math.min(now, math.max(due, now - 2 * SKEW)), who.n
  end
  local number = write_down(a, who.n)
  a.load.flying = a.load.flying + 1
  a.load.last[key.name], a.load.used_at = now, now
  for _, trial in ipairs(trials) do try_rest(trial[1], trial[2], who.id) end
  local star = rest_at('*')
  if star then try_rest('*', star, who.id) end
  local lease = {a = a.name, k = key.name, f = key.fingerprint, n = who.n, t = now, s = number, r = who.r, g = who.g, o = who.t,
    q = who.q}
  redis.call('HSET', touch('leased'), who.id, cmsgpack.pack(lease))
  redis.call('ZADD', touch('leases'), until_us, who.id)
  hold_lane(who.q .. ':' .. who.t, who.w, who.c)
  put_back(a)
  return lease
end

local function lease_of(id)
  local kept = redis.call('HGET', K.leased, id)
  return kept and cmsgpack.unpack(kept)
end

-- End a lease; is_unsent gives the account its room back. Returns the account.
local function give_back(id, lease, is_unsent)
  redis.call('HDEL', K.leased, id)
  redis.call('HDEL', K.grants, id)
  redis.call('ZREM', K.leases, id)
  if lease.q then free_lane(lease.q .. ':' .. lease.o) end
  local a = account(lease.a)
  if not a then return nil end
  a.load.flying = math.max(0, a.load.flying - 1)
  if is_unsent then cross_out(a, lease.s, lease.n) end
  return a
end

local function leased(decision, id, lease)
  return {decision = decision, account = lease.a, key = lease.k, fingerprint = lease.f, at_us = moment(lease.t)}
end

-- Count a request as sent at t and not when it was leased; not at all if its minute is over.
local function count_at(a, lease, t)
  cross_out(a, lease.s, lease.n)
  lease.t = t
  lease.s = t >= now and write_down(a, lease.n) or t > now - window() and write_in(a, t, lease.n) or 0
end

-- Calls of the last minute, repeated ones apart: those of this minute of the clock, and of the one before in part.
local function calls_lately()
  local minute = math.floor(now / MINUTE)
  local age = minute - setting('minute')
  if age ~= 0 then
    touch('roster')  -- what is read and not written lives on with every minute in which the pool is used
    touch('declared')
    touch('digests')
    local was_next = age == 1
    set_meta('calls_before', was_next and setting('calls') or 0)
    set_meta('retries_before', was_next and setting('retries') or 0)
    set_meta('calls', 0)
    set_meta('retries', 0)
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

-- Begin the call of a granted lease: the account's minute is counted from here.
local function claim(id, lease, until_us)
  local a = account(lease.a)
  count_at(a, lease, now)
  lease.g = nil
  redis.call('HDEL', K.grants, id)
  redis.call('HSET', touch('leased'), id, cmsgpack.pack(lease))
  redis.call('ZADD', touch('leases'), until_us, id)
  count_call(lease.r > 0)
  put_back(a)
  return leased('leased', id, lease)
end

-- A lease that expired may yet be released, by a process that was cut off: its call counts then, once.
local function note_lapsed(id)
  local LAPSED_KEPT, LAPSED_MAX = 24 * 60 * MINUTE, 10000
  redis.call('ZADD', touch('lapsed'), now, id)
  redis.call('ZREMRANGEBYSCORE', K.lapsed, '-inf', now - LAPSED_KEPT)
  redis.call('ZREMRANGEBYRANK', K.lapsed, 0, -LAPSED_MAX - 1)
end

-- What time brings: leases that were not renewed expire, accounts get their room back. Returns whether there is more to do.
local function look_after()
  note_time()
  forget_flows()
  local ended = in_grace() and {} or redis.call('ZRANGEBYSCORE', K.leases, '-inf', now, 'LIMIT', 0, BATCH)
  for _, id in ipairs(ended) do
    local lease = lease_of(id)
    if lease then
      if not lease.g then note_lapsed(id) end
      local a = give_back(id, lease, lease.g)
      if a then put_back(a) end
    else
      redis.call('ZREM', K.leases, id)
    end
  end
  local due = redis.call('ZRANGEBYSCORE', K.turns, '-inf', now, 'LIMIT', 0, BATCH)
  for _, name in ipairs(due) do
    local a = account(name)
    if a then put_back(a) else redis.call('ZREM', K.turns, name) end
  end
  return #ended == BATCH or #due == BATCH
end
