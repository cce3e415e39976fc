-- A heartbeat: a process renews its leases, and asks for its waiting requests; what is free is granted.
-- ARGV[1]  channel of the process, ARGV[2] how long it lives without a heartbeat, ARGV[3] how long a lease does
-- ARGV[4]  how many leases follow, to be renewed, each as "ID" or, if its call was sent later than it was leased,
--          "ID|MICROSECONDS"; then the ids of waiting requests
-- Returns  JSON: decision "open"; assigned: ids to claim; forgotten: ids that wait no longer; down: ids for which
--          nothing can serve in time; next_us: until something may be free, -1 unknown; is_keeper: this process asks
--          again then and notifies the others
local process, alive_us, lease_us, leases = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local found, ids = {decision = 'open', next_us = -1}, {unpack(ARGV, 5 + leases)}

-- A call that was sent later than it was leased is counted from then on.
local function shift(id, later_us)
  local lease = lease_of(id)
  local a = lease and not lease.l and accounts[lease.a]
  if not a then return end
  count_at(a, lease, math.min(now, lease.t + later_us))
  lease.l = true
  redis.call('HSET', touch('leased'), id, cmsgpack.pack(lease))
  put_back(a)
end

-- Whether some account can certainly serve a class, now or later.
local function is_served(class)
  if class.x or gate() == 0 then return false end
  for _, group in ipairs(able_groups(class)) do
    local is_usable = front('full', group)[1] or front('due', group)[1] or front('early', group)[1]
    if is_usable and group ~= '0' and class.n <= SHELVES then return true end
  end
  return false
end

-- Until when nothing can serve a class, though it is not for want of capacity.
local down_until = setmetatable({}, {__index = function(all, class)
  local soonest, reason = 0, nil
  if not is_served(classes[class]) then soonest, reason = outlook(classes[class], false, true) end
  all[class] = not soonest and math.huge or reason == 'down' and soonest or 0
  return all[class]
end})

if setting('lease_us') ~= lease_us then set_meta('lease_us', lease_us) end
for i = 5, 4 + leases do
  local id, later_us = string.match(ARGV[i], '^([^|]*)|?(.*)$')
  if redis.call('ZSCORE', K.leases, id) then
    redis.call('ZADD', K.leases, 'GT', now + lease_us, id)  -- that of a task is held for longer: see task.lua
    if later_us ~= '' then shift(id, tonumber(later_us)) end
  end
end
if #ids > 0 then redis.call('ZADD', touch('processes'), now + alive_us, process) end

-- Processes without a heartbeat lose their waiting requests, some in each script, and leases that they have not
-- claimed.
local dead = not in_grace() and redis.call('ZRANGEBYSCORE', K.processes, '-inf', now, 'LIMIT', 0, 1)[1]
if dead then
  local set = K['waiting:' .. dead]
  for _, id in ipairs(redis.call('SRANDMEMBER', set, BATCH)) do
    local waiter = waiter_of(id)
    if waiter then leave(waiter) else redis.call('SREM', set, id) end
  end
  each_field(K.grants, function(id, owner)
    local lease = owner == dead and lease_of(id)
    local a = lease and give_back(id, lease, true)
    if a then put_back(a) end
  end)
  if redis.call('EXISTS', set) == 0 then redis.call('ZREM', K.processes, dead) end
end

local has_more = apply_time()
if redis.call('EXISTS', K.classes) == 1 then
  has_more = dispatch() or has_more
  local first = redis.call('ZRANGE', K.timers, 0, 0, 'WITHSCORES')[2]
  found.next_us = has_more and 0 or first and math.max(0, tonumber(first) - now) or -1
  -- One process asks at the moment when something gets free; the others, once a second, see that one does.
  local keeper_until = setting('keeper_until')
  found.is_keeper = meta.keeper == process or keeper_until <= now or keeper_until >= now + MINUTE
  if found.is_keeper then
    set_meta('keeper', process)
    set_meta('keeper_until', now + alive_us / 2)
  end
end
local grants = #ids > 0 and redis.call('HMGET', K.grants, unpack(ids))
local waiting = #ids > 0 and redis.call('SMISMEMBER', K['waiting:' .. process], unpack(ids))
-- Whether nothing can serve some class. Of very many none is looked at: waiting requests say which of them matter.
local names = #ids > 0 and redis.call('ZRANGE', K.classes, 0, CLASSES_MAX) or {}
local may_be_down = #names > CLASSES_MAX
for _, class in ipairs(may_be_down and {} or names) do may_be_down = may_be_down or down_until[class] > 0 end
local waiters = may_be_down and redis.call('HMGET', K.waiters, unpack(ids)) or {}
for i, id in ipairs(ids) do
  local waiter = not grants[i] and waiters[i] and cmsgpack.unpack(waiters[i])
  local is_down = waiter and down_until[waiter.k] > waiter.d
  local name = grants[i] and 'assigned' or waiting[i] == 0 and 'forgotten' or is_down and 'down'
  if name then
    found[name] = found[name] or {}
    table.insert(found[name], id)
  end
end
return reply(found)
