-- What the scripts of this folder share; it stands before each of them.
--
-- One upstream's pool: accounts with keys, what each may still take, and who waits for that.
-- KEYS     the names in NAMES below, of one hash tag; pool/__init__.py says what each is
-- Clock    the server's; moments and spans are microseconds
-- TTL      whatever is written lives KEPT_S on, but what people said (added, held), which stays
--
-- An account's load, cmsgpack in `loads`:
--   log      flat list of t, c, n: at t (the latest of them) c requests with n images were sent; oldest first
--   flying   leases on it; each is one member of `leases` and one field of `leased`
--   last     key -> when it was used last
--   rate, rate_at, lanes, lanes_at   what it seems to allow where that is less than it should, and since when
-- A rest, JSON in `health` under "*" (the upstream), ACCOUNT, ACCOUNT/KEY or ACCOUNT/KEY|MODEL:
--   state, fault, since_us, until_us, seconds, busy; when until_us is over it is half open: one lease, its probe, may try
local NAMES = {'roster', 'declared', 'added', 'held', 'health', 'loads', 'ready', 'turns', 'leases', 'leased', 'line',
  'places', 'active', 'idle', 'weights', 'processes', 'grants', 'meta', 'audit', 'day'}
local KEPT_S = 40 * 24 * 60 * 60
local STAYS = {added = true, held = true, audit = true}
local MINUTE = 60 * 1000000
local EXACT_MAX = 64        -- entries of a log that are kept one by one; more are merged
local GRAIN = MINUTE / 256  -- into spans of this length
local BATCH = 32            -- moments that one script looks after

local K = {}
for i, name in ipairs(NAMES) do K[name] = KEYS[i] end
redis.call('EXISTS', unpack(KEYS))  -- a cluster that moves one of them says so before anything is written
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local meta, touched, events, accounts = {}, {}, {}, {}
do
  local kept = redis.call('HGETALL', K.meta)
  for i = 1, #kept, 2 do meta[kept[i]] = kept[i + 1] end
end

local function touch(name)
  touched[name] = true
  return K[name]
end

local function setting(name) return tonumber(meta[name]) or 0 end

local function set_meta(name, value)
  meta[name] = value
  redis.call('HSET', touch('meta'), name, value)
end

local function window() return MINUTE + setting('margin_us') end

local function tell(subject, state, fault)
  events[#events + 1] = {subject, state, fault or ''}
end

local function moment(us) return string.format('%.0f', us) end

-- The answer of every script: JSON with a verdict, and what changed its state meanwhile.
local function reply(found)
  for name in pairs(touched) do
    if not STAYS[name] then redis.call('EXPIRE', K[name], KEPT_S) end
  end
  found.version = setting('version')
  if #events > 0 then found.events = events end
  return cjson.encode(found)
end

-- Rests ---------------------------------------------------------------------------------------------------------------

local function rest_in(text) return text and cjson.decode(text) or nil end

local function keep_rest(field, rest) redis.call('HSET', touch('health'), field, cjson.encode(rest)) end

-- Whether somebody may use what rests, and if not, until when; a rest that has no end to name gives 0.
local function opens(rest)
  if not rest then return true, 0 end
  if rest.until_us > now then return false, rest.until_us end
  if rest.probe and redis.call('ZSCORE', K.leases, rest.probe) then return false, 0 end
  return true, 0
end

local function announce(field, rest)
  if rest and rest.until_us <= now and not rest.told then
    rest.told = true
    keep_rest(field, rest)
    tell(field, 'half_open', rest.fault)
  end
end

-- How many leases the upstream as a whole lets through now, and if none, until when.
local function gate()
  local rest = rest_in(redis.call('HGET', K.health, '*'))
  if not rest then return math.huge, 0 end
  announce('*', rest)
  local is_open, back = opens(rest)
  return is_open and 1 or 0, back
end

-- Accounts ------------------------------------------------------------------------------------------------------------

local function drop_old(load)
  local log, cut, from = load.log, now - window(), 1
  while log[from] and log[from] <= cut do from = from + 3 end
  if from == 1 then return end
  local kept = {}
  for i = from, #log do kept[#kept + 1] = log[i] end
  load.log = kept
end

local function sum_up(a)
  local requests, images, log = 0, 0, a.load.log
  for i = 1, #log, 3 do
    requests, images = requests + log[i + 1], images + log[i + 2]
  end
  a.requests, a.images = requests, images
end

local function account(name)
  if accounts[name] == nil then
    local record, kept = redis.call('HGET', K.roster, name), redis.call('HGET', K.loads, name)
    if record or kept then
      local a = {name = name, record = record and cjson.decode(record) or nil}
      a.load = kept and cmsgpack.unpack(kept) or {log = {}, flying = 0, last = {}}
      drop_old(a.load)
      sum_up(a)
      accounts[name] = a
    else
      accounts[name] = false
    end
  end
  return accounts[name]
end

-- What a lowered estimate has grown to: a tenth of the limit a minute, at least one.
local function grown(limit, kept, since)
  if not kept then return limit end
  local steps = math.floor((now - since) / MINUTE)
  return math.min(limit, kept + steps * math.max(1, math.floor(limit / 10)))
end

local function rate_of(a) return grown(a.record.requests_per_minute, a.load.rate, a.load.rate_at) end

local function lanes_of(a) return grown(a.record.max_concurrency, a.load.lanes, a.load.lanes_at) end

local function has_room(a)
  return a.requests < rate_of(a) and a.load.flying < lanes_of(a) and a.images < a.record.images_per_minute
end

-- How full it is, next to what it may take and its weight; among equals the one that was used longest ago.
local function fullness(a)
  local limit = a.record
  local share = math.max(a.requests / rate_of(a), a.images / limit.images_per_minute, a.load.flying / lanes_of(a))
  return math.floor(share * 10000 / limit.weight) + (a.load.used_at or 0) / 1e17
end

local function rests_of(a, model)
  local fields, holds = {a.name}, {a.name}
  for _, key in ipairs(a.record.keys) do
    local member = a.name .. '/' .. key.name
    holds[#holds + 1] = member
    fields[#fields + 1] = member
    fields[#fields + 1] = member .. '|' .. (model or '')
  end
  return fields, redis.call('HMGET', K.health, unpack(fields)), redis.call('HMGET', K.held, unpack(holds))
end

-- The key of an account whose turn it is, with the half-open rests that a lease of it would try: {field, rest}.
-- Without one, until when that is so: 0 where that is not known.
local function key_of(a, model, avoided)
  local fields, kept, held = rests_of(a, model)
  if held[1] or avoided[a.name .. '/'] then return nil, 0 end
  local rest = rest_in(kept[1])
  announce(fields[1], rest)
  local is_open, back = opens(rest)
  if not is_open then return nil, back, rest end
  local best, trials, oldest, soonest, why = nil, nil, math.huge, math.huge, nil
  for i, key in ipairs(a.record.keys) do
    local one, two = rest_in(kept[2 * i]), rest_in(kept[2 * i + 1])
    announce(fields[2 * i], one)
    announce(fields[2 * i + 1], two)
    local is_free, until_one = opens(one)
    local is_allowed, until_two = opens(two)
    if held[i + 1] or avoided[fields[2 * i]] then
      is_free = false
    elseif not (is_free and is_allowed) and math.max(until_one, until_two) < soonest then
      soonest = math.max(until_one, until_two)
      why = not is_free and (is_allowed or until_one >= until_two) and one or two
    end
    if is_free and is_allowed and not held[i + 1] and (a.load.last[key.name] or 0) < oldest then
      best, oldest = key, a.load.last[key.name] or 0
      trials = {}
      if rest then trials[#trials + 1] = {fields[1], rest} end
      if one then trials[#trials + 1] = {fields[2 * i], one} end
      if two then trials[#trials + 1] = {fields[2 * i + 1], two} end
    end
  end
  if best then return best, trials end
  return nil, soonest < math.huge and soonest or 0, why
end

-- Write an account back: whether it is ready, and when that may change by itself.
local function put_back(a)
  local load, next_us = a.load, math.huge
  local function at(us) if us > now and us < next_us then next_us = us end end
  if not a.record then
    redis.call('ZREM', touch('ready'), a.name)
    redis.call('ZREM', touch('turns'), a.name)
    redis.call('HSET', touch('loads'), a.name, cmsgpack.pack(load))
    return
  end
  if load.log[1] then at(load.log[1] + window()) end
  if load.rate then
    if rate_of(a) >= a.record.requests_per_minute then
      load.rate = nil
    else
      at(load.rate_at + (math.floor((now - load.rate_at) / MINUTE) + 1) * MINUTE)
    end
  end
  if load.lanes then
    if lanes_of(a) >= a.record.max_concurrency then
      load.lanes = nil
    else
      at(load.lanes_at + (math.floor((now - load.lanes_at) / MINUTE) + 1) * MINUTE)
    end
  end
  local key, back = key_of(a, nil, {})
  if not key then at(back) end
  if key and has_room(a) then
    redis.call('ZADD', touch('ready'), fullness(a), a.name)
  else
    redis.call('ZREM', touch('ready'), a.name)
  end
  if next_us < math.huge then
    redis.call('ZADD', touch('turns'), next_us, a.name)
  else
    redis.call('ZREM', touch('turns'), a.name)
  end
  redis.call('HSET', touch('loads'), a.name, cmsgpack.pack(load))
end

local function write_down(a, images)
  local log, size = a.load.log, #a.load.log
  if size >= 3 * EXACT_MAX and math.floor(log[size - 2] / GRAIN) == math.floor(now / GRAIN) then
    log[size - 2], log[size - 1], log[size] = now, log[size - 1] + 1, log[size] + images
  else
    log[size + 1], log[size + 2], log[size + 3] = now, 1, images
  end
  a.requests, a.images = a.requests + 1, a.images + images
end

-- Likewise for a request of an earlier moment; in a long log it goes with the next one.
local function write_in(a, t, images)
  local log = a.load.log
  local at = #log + 1
  while at > 3 and log[at - 3] > t do at = at - 3 end
  if #log >= 3 * EXACT_MAX and log[at] then
    log[at + 1], log[at + 2] = log[at + 1] + 1, log[at + 2] + images
  else
    for i, value in ipairs({t, 1, images}) do table.insert(log, at + i - 1, value) end
  end
  a.requests, a.images = a.requests + 1, a.images + images
end

-- The opposite, for a request of the moment t that was not sent; what has left the log already is not in it.
local function cross_out(a, t, images)
  local log = a.load.log
  if t <= now - window() then return end
  for i = 1, #log, 3 do
    if log[i] >= t then
      log[i + 1], log[i + 2] = log[i + 1] - 1, log[i + 2] - images
      if log[i + 1] <= 0 then
        for _ = 1, 3 do table.remove(log, i) end
      end
      a.requests, a.images = a.requests - 1, a.images - images
      return
    end
  end
end

-- Leases --------------------------------------------------------------------------------------------------------------

-- A lease is {a = account, k = key, f = its fingerprint, n = images, t = moment, r = repeats, g = granted}: granted is
-- one that was given to a waiting request, and that its process has not taken yet.
local function take(a, key, trials, id, images, until_us, repeats, granted)
  write_down(a, images)
  a.load.flying = a.load.flying + 1
  a.load.last[key.name], a.load.used_at = now, now
  for _, trial in ipairs(trials) do
    trial[2].probe = id
    keep_rest(trial[1], trial[2])
  end
  local star = rest_in(redis.call('HGET', K.health, '*'))
  if star then
    star.probe = id
    keep_rest('*', star)
  end
  local lease = {a = a.name, k = key.name, f = key.fingerprint, n = images, t = now, r = repeats, g = granted}
  redis.call('HSET', touch('leased'), id, cmsgpack.pack(lease))
  redis.call('ZADD', touch('leases'), until_us, id)
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
  local a = account(lease.a)
  if not a then return nil end
  a.load.flying = math.max(0, a.load.flying - 1)
  if is_unsent then cross_out(a, lease.t, lease.n) end
  return a
end

local function leased(verdict, id, lease)
  return {verdict = verdict, account = lease.a, key = lease.k, fingerprint = lease.f, at_us = moment(lease.t)}
end

-- What time brings: leases that nobody renewed end, accounts get their room back. Returns whether there is more to do.
local function look_after()
  local ended = redis.call('ZRANGEBYSCORE', K.leases, '-inf', now, 'LIMIT', 0, BATCH)
  for _, id in ipairs(ended) do
    local lease = lease_of(id)
    if lease then
      local a = give_back(id, lease, lease.g)
      if a then put_back(a) end
    else
      redis.call('ZREM', K.leases, id)
    end
  end
  local due = redis.call('ZRANGEBYSCORE', K.turns, '-inf', now, 'LIMIT', 0, BATCH)
  for _, name in ipairs(due) do
    local a = account(name)
    if a then
      put_back(a)
    else
      redis.call('ZREM', K.turns, name)
      redis.call('ZREM', K.ready, name)
    end
  end
  return #ended == BATCH or #due == BATCH
end

-- The account for a call: {account, key, trials}; or nil, and the account that has room for so many images first.
local function choose(images, model, avoided, reserved)
  local start, short, shortest = 0, nil, math.huge
  while true do
    local page = redis.call('ZRANGE', K.ready, start, start + 15)
    for _, name in ipairs(page) do
      local a = account(name)
      if a and a.record and not reserved[name] and has_room(a) then
        local key, trials = key_of(a, model, avoided)
        local missing = a.images + images - a.record.images_per_minute
        if key and missing <= 0 then return {a, key, trials} end
        if key and images <= a.record.images_per_minute then
          local log = a.load.log
          for i = 1, #log, 3 do
            missing = missing - log[i + 2]
            if missing <= 0 then
              if log[i] < shortest then short, shortest = name, log[i] end
              break
            end
          end
        end
      end
    end
    if #page < 16 then return nil, short end
    start = start + 16
  end
end

-- The queue: weighted fair queueing over tenants ------------------------------------------------------------------------
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
local TENANTS_MAX = 32      -- who cannot be served now and are passed over in one script
local DEPTH = 8             -- requests of one tenant that are looked at, where the first avoid what is free

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
      take(found[1], found[2], found[3], place.id, place.n, now + GRANT, place.r, true)
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
