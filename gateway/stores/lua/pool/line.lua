-- The queue: weighted fair queueing over tenants. Shared, after leases.lua.
--
-- Each tenant has a pass: the virtual time at which its next request is to be served. Serving one moves it on by cost /
-- weight; who comes (back) starts at the pool's own virtual time, which is the pass of what was served last. `active` has
-- the passes of who waits, `idle` those of who does not, as long as they are ahead. Nothing is paid by who leaves the line.

local function cost_of(images) return math.max(1, images * setting('slots_per_image')) end

local function start_of(tenant)
  return math.max(setting('virtual'), tonumber(redis.call('ZSCORE', K.idle, tenant) or 0))
end

local function charge(tenant, pass, cost, weight)
  if pass > setting('virtual') then
    set_meta('virtual', pass)
    redis.call('ZREMRANGEBYSCORE', K.idle, '-inf', pass)
  end
  return pass + cost / weight
end

local function spot(place) return place.t .. '|' .. string.format('%016.0f', place.at) .. '|' .. place.id end

local function line_of(tenant, most)
  local found = redis.call('ZRANGEBYLEX', K.line, '[' .. tenant .. '|', '(' .. tenant .. '}', 'LIMIT', 0, most)
  for i, member in ipairs(found) do found[i] = string.match(member, '[^|]*$') end
  return found
end

local function place_of(id)
  local kept = redis.call('HGET', K.places, id)
  return kept and cmsgpack.unpack(kept)
end

local function join(place)
  redis.call('ZADD', touch('line'), 0, spot(place))
  redis.call('HSET', touch('places'), place.id, cmsgpack.pack(place))
  redis.call('HINCRBYFLOAT', touch('meta'), 'queued', place.c)
  if not redis.call('ZSCORE', K.active, place.t) then
    redis.call('ZADD', touch('active'), start_of(place.t), place.t)
    redis.call('ZREM', touch('idle'), place.t)
    redis.call('HSET', touch('weights'), place.t, place.w)
    redis.call('HINCRBYFLOAT', touch('meta'), 'weight', place.w)
  end
end

-- Leave the line. Where nobody of the tenant is left in it, it keeps the pass that it has or is given.
local function leave(place, pass)
  redis.call('ZREM', touch('line'), spot(place))
  redis.call('HDEL', touch('places'), place.id)
  redis.call('HINCRBYFLOAT', touch('meta'), 'queued', -place.c)
  if #line_of(place.t, 1) > 0 then
    if pass then redis.call('ZADD', touch('active'), pass, place.t) end
    return
  end
  pass = pass or tonumber(redis.call('ZSCORE', K.active, place.t) or 0)
  redis.call('ZREM', touch('active'), place.t)
  if pass > setting('virtual') then redis.call('ZADD', touch('idle'), pass, place.t) end
  local weight = tonumber(redis.call('HGET', K.weights, place.t) or 0)
  redis.call('HDEL', touch('weights'), place.t)
  redis.call('HINCRBYFLOAT', touch('meta'), 'weight', -weight)
  if redis.call('ZCARD', K.line) == 0 then
    redis.call('HDEL', touch('meta'), 'queued', 'weight')  -- so that no error of a float lives on
    meta.queued, meta.weight = nil, nil
  end
end

local function avoided_by(list)
  local found = {}
  for _, name in ipairs(list) do found[name] = true end
  return found
end

local function is_alive(process)
  local until_us = redis.call('ZSCORE', K.processes, process)
  return until_us and tonumber(until_us) > now
end

local GRANT = 10 * 1000000  -- so long a granted lease waits for its process to take it
local GRANTS_MAX = 64       -- in one script
local TENANTS_MAX = 100     -- who cannot be served now and are passed over in one script
local DEPTH = 16            -- requests of one tenant that are looked at, where the first avoid what is free

-- The request of a tenant that can be served now: place, {account, key, trials}. One that waits for room for its many
-- images reserves the account that has it first, and its tenant's others stay behind it.
local function servable(tenant, reserved)
  for _, id in ipairs(line_of(tenant, DEPTH)) do
    local place = place_of(id)
    if not is_alive(place.p) then
      leave(place)
      return nil, true
    end
    local found, short = choose(place.n, place.m, avoided_by(place.x), reserved)
    if found then return place, found end
    if short then
      reserved[short] = true
      return nil
    end
  end
end

-- Give what is free to who waits, the tenant with the lowest pass first.
local function dispatch()
  local left, passed_over, reserved, granted = gate(), 0, {}, 0
  while left > 0 and granted < GRANTS_MAX and passed_over < TENANTS_MAX do
    if redis.call('ZCARD', K.ready) == 0 then break end
    local first = redis.call('ZRANGE', K.active, passed_over, passed_over, 'WITHSCORES')
    if not first[1] then break end
    local place, found = servable(first[1], reserved)
    if place then
      leave(place, charge(place.t, tonumber(first[2]), place.c, place.w))
      take(found[1], found[2], found[3], place.id, place.t, place.n, now + GRANT, place.r, true)
      redis.call('HSET', touch('grants'), place.id, place.p)
      redis.call('PUBLISH', place.p, place.id)
      granted, left = granted + 1, left - 1
    elseif not found then
      passed_over = passed_over + 1
    end
  end
  return granted == GRANTS_MAX
end

-- Calls of the last minute, repeated ones apart: those of this minute of the clock, and of the one before in part.
local function calls_lately()
  local minute = math.floor(now / MINUTE)
  local age = minute - setting('minute')
  if age > 0 then
    touch('roster')  -- what is read and not written lives on with every minute in which the pool is used
    touch('declared')
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
  set_meta('calls', setting('calls') + 1)
  if is_retry then set_meta('retries', setting('retries') + 1) end
end

-- Begin the call of a granted lease: the account's minute is counted from here.
local function claim(id, lease, until_us)
  local a = account(lease.a)
  cross_out(a, lease.t, lease.n)
  write_down(a, lease.n)
  lease.t, lease.g = now, nil
  redis.call('HDEL', K.grants, id)
  redis.call('HSET', touch('leased'), id, cmsgpack.pack(lease))
  redis.call('ZADD', touch('leases'), until_us, id)
  count_call(lease.r > 0)
  put_back(a)
  return leased('leased', id, lease)
end
