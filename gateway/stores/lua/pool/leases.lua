-- Leases: taken, given back, ended by time; and which account is the one to take.
-- Shared, after accounts.lua.

-- A lease is {a = account, k = key, f = its fingerprint, o = tenant, n = images, t = moment, r = repeats, g = granted, l =
-- shifted}: granted is one that was given to a waiting request, and that its process has not taken yet; shifted one
-- whose moment is already that of its sending.
local function take(a, key, trials, id, tenant, images, until_us, repeats, granted)
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
  local lease = {a = a.name, k = key.name, f = key.fingerprint, n = images, t = now, r = repeats, g = granted, o = tenant}
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
