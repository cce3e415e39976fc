-- A process is alive, renews its leases, and asks how its waiting requests stand; what is free is given out.
-- ARGV[1]  channel of the process, ARGV[2] how long it lives without a sign, ARGV[3] how long a lease does
-- ARGV[4]  how many leases follow, to be renewed, each as "ID" or, where its call was sent later than it was leased,
--          "ID|MICROSECONDS"; then the ids of waiting requests
-- Returns  JSON: verdict "down" or "open"; given: ids to claim; gone: ids that wait no longer;
--          next_us: until something may be free, -1 unknown; is_keeper: this process asks again then, the others are told
local WORTH = 10 * MINUTE
local process, lease_us, leases = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])

-- One process a pool asks at the moment when something gets free; the others, once a second, see that somebody does.
local function is_keeper()
  if meta.keeper ~= process and setting('keeper_until') > now then return false end
  set_meta('keeper', process)
  set_meta('keeper_until', moment(now + tonumber(ARGV[2]) / 2))
  return true
end

local function bury()
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', K.processes, '-inf', now)) do
    redis.call('ZREM', K.processes, dead)
    local kept = redis.call('HGETALL', K.places)
    for i = 2, #kept, 2 do
      local place = cmsgpack.unpack(kept[i])
      if place.p == dead then leave(place) end
    end
  end
end

-- Whether an account could serve sooner or later: has room, is full, or rests for a time that is worth waiting for.
local function can_serve()
  if redis.call('ZCARD', K.ready) > 0 then return true end
  local names = redis.call('ZRANGE', K.turns, 0, BATCH)
  for _, name in ipairs(names) do
    local a = account(name)
    if a and a.record then
      local key, _, rest = key_of(a, nil, {})
      if key then return true end
      if rest and rest.state == 'cooling' and (rest.busy or rest.until_us < now + WORTH) then return true end
      if rest and rest.until_us <= now then return true end
    end
  end
  return #names > BATCH
end

if not meta.version then return reply({verdict = 'unknown'}) end
-- A call that was sent later than it was leased is counted from then on.
local function shift(id, later_us)
  local lease = lease_of(id)
  local a = lease and not lease.l and account(lease.a)
  if not a then return end
  cross_out(a, lease.t, lease.n)
  lease.t, lease.l = math.min(now, lease.t + later_us), true
  write_in(a, lease.t, lease.n)
  redis.call('HSET', touch('leased'), id, cmsgpack.pack(lease))
  put_back(a)
end

for i = 5, 4 + leases do
  local id, later_us = string.match(ARGV[i], '^([^|]*)|?(.*)$')
  if redis.call('ZSCORE', K.leases, id) then
    redis.call('ZADD', K.leases, now + lease_us, id)
    if later_us ~= '' then shift(id, tonumber(later_us)) end
  end
end
local found = {next_us = -1, given = {}, gone = {}}
if #ARGV > 4 + leases then redis.call('ZADD', touch('processes'), now + tonumber(ARGV[2]), process) end
bury()
local has_more = look_after()
if redis.call('ZCARD', K.active) > 0 then
  has_more = dispatch() or has_more
  local first = redis.call('ZRANGE', K.turns, 0, 0, 'WITHSCORES')
  if has_more then
    found.next_us = 0
  elseif first[1] then
    found.next_us = math.max(0, tonumber(first[2]) - now)
  end
  found.is_keeper = is_keeper()
end
for i = 5 + leases, #ARGV do
  local id = ARGV[i]
  if redis.call('HEXISTS', K.grants, id) == 1 then
    found.given[#found.given + 1] = id
  elseif redis.call('HEXISTS', K.places, id) == 0 then
    found.gone[#found.gone + 1] = id
  end
end
if #found.given == 0 then found.given = nil end
if #found.gone == 0 then found.gone = nil end
local is_open, back = gate()
local is_down = (is_open == 0 and back > now + MINUTE) or (redis.call('ZCARD', K.active) > 0 and not can_serve())
found.verdict = is_down and 'down' or 'open'
return reply(found)
