-- A heartbeat: a process renews its leases, and asks how its waiting requests stand; what is free is given out.
-- ARGV[1]  channel of the process, ARGV[2] how long it lives without a heartbeat, ARGV[3] how long a lease does
-- ARGV[4]  how many leases follow, to be renewed, each as "ID" or, if its call was sent later than it was leased,
--          "ID|MICROSECONDS"; then the ids of waiting requests
-- Returns  JSON: decision "open"; given: ids to claim; gone: ids that wait no longer; down: ids for which nothing can serve in
--          time; next_us: until something may be free, -1 unknown; is_keeper: this process asks again then and notifies the others
local process, lease_us, leases = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])

-- One process a pool asks at the moment when something gets free; the others, once a second, see that one does.
local function is_keeper()
  if meta.keeper ~= process and setting('keeper_until') > now and setting('keeper_until') < now + MINUTE then return false end
  set_meta('keeper', process)
  set_meta('keeper_until', now + tonumber(ARGV[2]) / 2)
  return true
end

-- A call that was sent later than it was leased is counted from then on.
local function shift(id, later_us)
  local lease = lease_of(id)
  local a = lease and not lease.l and account(lease.a)
  if not a then return end
  count_at(a, lease, math.min(now, lease.t + later_us))
  lease.l = true
  redis.call('HSET', touch('leased'), id, cmsgpack.pack(lease))
  put_back(a)
end

-- Until when nothing can serve a class, though it is not for want of room.
local known = {}
local function down_until(number)
  if known[number] == nil then
    read_classes({number})
    local soonest, kind = outlook(classes[number], false, true)
    known[number] = not soonest and math.huge or kind == 'down' and soonest or 0
  end
  return known[number]
end

-- Whether nothing can serve some class. Of very many classes none is asked: places say which of them matter.
local function is_any_down()
  local numbers = redis.call('ZRANGE', K.classes, 0, CLASSES_MAX)
  if #numbers > CLASSES_MAX then return true end
  for _, number in ipairs(numbers) do
    if down_until(number) > 0 then return true end
  end
  return false
end

-- Whether nothing can serve a place before its time is up.
local function is_down(kept)
  local place = cmsgpack.unpack(kept)
  return down_until(place.k) > place.d
end

local function report(ids, found)
  if #ids == 0 then return end
  local grants, places = redis.call('HMGET', K.grants, unpack(ids)), redis.call('HMGET', K.places, unpack(ids))
  local may_be_down = is_any_down()
  for i, id in ipairs(ids) do
    local name = grants[i] and 'given' or not places[i] and 'gone' or may_be_down and is_down(places[i]) and 'down'
    if name then
      found[name] = found[name] or {}
      table.insert(found[name], id)
    end
  end
end

if not meta.version then return reply({decision = 'unknown'}) end
if setting('lease_us') ~= lease_us then set_meta('lease_us', lease_us) end
for i = 5, 4 + leases do
  local id, later_us = string.match(ARGV[i], '^([^|]*)|?(.*)$')
  if redis.call('ZSCORE', K.leases, id) then
    redis.call('ZADD', K.leases, now + lease_us, id)
    if later_us ~= '' then shift(id, tonumber(later_us)) end
  end
end
local found, waiting_ids = {decision = 'open', next_us = -1}, {}
for i = 5 + leases, #ARGV do waiting_ids[#waiting_ids + 1] = ARGV[i] end
if #waiting_ids > 0 then redis.call('ZADD', touch('processes'), now + tonumber(ARGV[2]), process) end
drop_dead()
local has_more = look_after()
if redis.call('EXISTS', K.classes) == 1 then
  has_more = dispatch() or has_more
  local first = redis.call('ZRANGE', K.turns, 0, 0, 'WITHSCORES')
  if has_more then
    found.next_us = 0
  elseif first[1] then
    found.next_us = math.max(0, tonumber(first[2]) - now)
  end
  found.is_keeper = is_keeper()
end
report(waiting_ids, found)
return reply(found)
