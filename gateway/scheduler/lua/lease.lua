-- Lease an account and a key for one call, or join the queue, or refuse.
-- ARGV[1]  id of the lease, unique
-- ARGV[2]  channel of the process, at which it is notified of leases for its waiting requests; it is also its name
-- ARGV[3]  tenant, ARGV[4] its weight
-- ARGV[5]  images of the call, ARGV[6] the upstream's name of the model
-- ARGV[7]  the longest wait, microseconds; 0 does not wait
-- ARGV[8]  the moment of the first request, for its place among its tenant's; "" for now
-- ARGV[9]  1 if the call repeats one that this upstream failed, and counts for the retry budget; 2 if it repeats
--          another
-- ARGV[10] how long the lease lives without being renewed; ARGV[11] likewise the process
-- ARGV[12] "i" interactive or "b" batch
-- ARGV[13..] what to avoid: "ACCOUNT/" or "ACCOUNT/KEY"
-- Returns  JSON: decision "leased" with account, key, fingerprint, requested_us; "wait" with wait_us (as foreseen) and
--          requested_us; "busy" (wait_us: until there would be capacity); "down" (wait_us: until it may be back, 0
--          unknown); "nothing": all that could serve is to be avoided; "spent": the retry budget; "unknown": Redis
--          knows no such pool
local id, process, tenant, weight = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local patience, requested_us, repeats = tonumber(ARGV[7]), tonumber(ARGV[8]) or now, tonumber(ARGV[9])
local lease_us, priority = tonumber(ARGV[10]), ARGV[12]
local avoided = {}
for i = 13, #ARGV do avoided[#avoided + 1] = ARGV[i] end
local need = classes[class_of(priority, ARGV[5], avoided, ARGV[6])]
local flow, cost = priority .. ':' .. tenant, math.max(1, need.n * setting('slots_per_image'))

-- Lifts some of the cooldowns that other tenants' calls alone caused, also if a call tries them: they may make that as
-- slow as they like. Returns whether there were any.
local function lift_blamed()
  local LIFTS_MAX, READ_MAX, lifted = 10, 100, 0
  for _, set in ipairs({K.blamed, K['blamed:' .. need.m]}) do
    local fields = redis.call('SRANDMEMBER', set, READ_MAX)
    read_cooldowns(fields)
    for _, field in ipairs(fields) do
      if lifted == LIFTS_MAX then return true end
      local cooldown = cooldowns[field]
      local is_blamed = cooldown and cooldown.by and not cooldown.lifted
      local is_kept = is_blamed and (set_of(cooldown.by)[tenant] or cooldown.firm_us > now)
      if not is_kept then redis.call('SREM', set, field) end
      if is_blamed and not is_kept then
        move(field, 'enable')
        cooldown.lifted = true
        save_cooldown(field, cooldown)
        local a = accounts[string.match(field, '^[^/|]*')]
        if a then put_back(a) end
        lifted = lifted + 1
      end
    end
  end
  return lifted > 0
end

-- Half opens the circuit breaker before its time, for a tenant whose calls do not fail again and again. Returns whether
-- it was.
local function lift_breaker()
  local breaker = cooldowns['*']
  if not (breaker and breaker.ill and is_out(breaker)) then return false end
  if (tonumber(redis.call('HGET', K.ailing, tenant)) or 0) > 1 then return false end
  local resumes = breaker.until_us
  move('*', 'enable')
  breaker.resumes = resumes
  save_cooldown('*', breaker)
  return true
end

local SAMPLE = 4  -- accounts of a kind that a forecast looks at; of more it takes these for a sample

-- What becomes free at an account from a moment on: calls that it may begin now, its concurrency, moments, and the
-- slots that its minute has by each of them.
local function slots_of(a, from)
  local free, concurrency, span = rate_of(a) - a.requests, concurrency_of(a), window()  -- free < 0: it was lowered
  local found = {free = concurrency - a.load.in_flight, concurrency = concurrency, moments = {from}, slots = {free},
    passed = 0}
  for i = 1, #a.load.log, 4 do
    free = free + a.load.log[i + 1]
    found.moments[#found.moments + 1] = math.max(from, a.load.log[i] + span)
    found.slots[#found.slots + 1] = free
  end
  return found
end

-- Accounts that can serve the need at some time, a sample of them: {slots_of each; all = how many they are, span = of
-- their pace, on average, total = slots of their minutes}.
local function sample()
  local found, is_over_now = {all = 0, span = 0, total = 0}, is_over(flow)
  for _, kind in ipairs({'due', 'early', 'full', 'resting'}) do
    local left, set = SAMPLE, (kind == 'due' and 'ready' or kind) .. ':'
    for _, group in ipairs(able_groups(need)) do
      if kind ~= 'early' then found.all = found.all + redis.call('ZCARD', K[set .. group]) end
      local names = names_of(front(kind, group), left)
      left = left - #names
      read_keys(names)
      for _, name in ipairs(names) do
        local a = accounts[name]
        local at = a and serve_at(a, need, false)
        if at then
          found[#found + 1] = slots_of(a, kind == 'resting' and at or now)
          found.total = found.total + math.max(0, found[#found].slots[#found[#found].slots])
          if is_over_now then found.span = found.span + select(2, pace_of(a, priority == 'b')) end
        end
      end
    end
  end
  found.all, found.total = math.max(found.all, #found), math.max(1, found.total)
  found.span = found.span / math.max(1, #found)
  return found
end

-- Whether these accounts have the slots by a time: their minutes have capacity and, as long as calls lasted recently,
-- calls in flight have ended. If not, only later moments are asked for.
local function have_slots(number, us, found)
  local sum, call_us = 0, setting('call_us')
  for _, one in ipairs(found) do
    local at = one.passed
    while one.moments[at + 1] and one.moments[at + 1] <= us do at = at + 1 end
    local free = one.slots[at] or 0
    if call_us > 0 then free = math.min(free, one.free + math.floor((us - now) * one.concurrency / call_us)) end
    sum, one.seen = sum + math.max(0, free), at
    if sum >= number then return true end
  end
  for _, one in ipairs(found) do one.passed = one.seen end
  return false
end

-- The moment at which the slot with this number is free, to a millisecond.
local function moment_of(number, found)
  local rounds = math.floor((number - 1) / found.total)
  number = (number - 1) % found.total + 1
  if have_slots(number, now, found) then return now + rounds * window() end
  local low, high = now, now
  for _, one in ipairs(found) do
    local calls_us = math.ceil((one.slots[#one.slots] - one.free) * setting('call_us') / one.concurrency)
    high = math.max(high, one.moments[#one.moments], now + 1 + calls_us)
  end
  while high - low > 1000 do
    local middle = math.floor((low + high) / 2)
    if have_slots(number, middle, found) then high = middle else low = middle end
  end
  return high + rounds * window()
end

-- How many slots pass until this request, which waits, is served: all that wait for what could serve it, or its own
-- and the others' shares beside them.
local function slots_ahead()
  local queued, names = 0, {}
  for _, class in ipairs(first_classes()) do
    if (class.q == 'i' or priority == 'b') and #able_groups(class) > 0 then names[#names + 1] = class.name end
  end
  local costs = #names > 0 and redis.call('HMGET', K.queued, unpack(names)) or {}
  for _, one in ipairs(costs) do queued = queued + (tonumber(one) or 0) end
  if priority == 'b' then return math.max(cost, queued) end
  local own = tonumber(redis.call('HGET', K.waits, flow) or 1) - 1
  local each = setting('waiting_i') > 1 and math.max(0, queued - cost) / (setting('waiting_i') - 1) or 0
  local fair = (own * each + cost) * math.max(weight, setting('weight')) / weight
  return math.max(cost, math.min(queued, fair))
end

-- Microseconds until this request, which waits, is served, and why it waits; nil if nothing can serve it, with the
-- reason; see outlook.
local function forecast()
  local soonest, reason, back = outlook(need, is_over(flow))
  if not soonest then return nil, reason, back > now and back - now or 0 end
  local found = reason == 'busy' and sample() or {}
  if #found == 0 then return soonest - now, reason end
  local ahead, span = slots_ahead(), found.span
  local at = math.max(moment_of(math.max(1, math.ceil(ahead * #found / found.all)), found), soonest)
  if span > 0 then  -- one in each span for a minute, as capacity is spread, then at the rate at which slots get free
    local slots = (ahead - cost) / found.all
    local paced = slots * span
    local later = window() + (slots - window() / span) * window() * #found / found.total
    at = math.max(at, soonest + (paced > window() and math.min(paced, later) or paced))
  end
  if not may_begin(flow, need) then at = math.max(at, now + setting('call_us') / math.max(1, flow_of(flow).h)) end
  return at - now, reason
end

-- Leases without a wait, if no request waits that goes before it; nil if nothing is free.
local function lease_at_once()
  local first = redis.call('ZRANGE', K.classes, 0, 0)[1]
  local is_next = not first or (priority == 'i' and classes[first].q == 'b')
  if not is_next or gate() == 0 or not may_begin(flow, need, weight) then return nil end
  local is_paced = is_over(flow)
  local found = choose(need, is_paced, {})
  if not found then return nil end
  redis.call('ZADD', touch('idle'), pay(flow, cost, weight), flow)
  count_call(repeats > 0)
  local who = {id = id, t = tenant, q = priority, w = weight, c = cost, n = need.n, r = repeats}
  return leased(id, take(found, who, now + lease_us, is_paced), requested_us)
end

if setting('lease_us') ~= lease_us then set_meta('lease_us', lease_us) end
if priority == 'i' then note_interactive(need.n) end
for _ = 1, 8 do  -- batches of what time has brought, before a request is refused
  if not apply_time() or is_freed then break end
end
if repeats == 1 then
  local calls, retries = calls_lately()
  local budget = math.max(setting('retries_min'), (calls - retries) * setting('retry_budget_percent') / 100)
  if retries + 1 > budget then return reply({decision = 'spent'}) end
end
local leased_now = lease_at_once() or (lift_breaker() or lift_blamed()) and lease_at_once()
if leased_now then return reply(leased_now) end

-- It joins the queue, and takes what it is given if it is its turn for something that is free.
redis.call('ZADD', touch('processes'), now + tonumber(ARGV[11]), process)
join({id = id, k = need.name, f = flow, w = weight, at = requested_us, d = now + patience, p = process, c = cost,
  r = repeats})
dispatch()
local lease = lease_of(id)
if lease and lease.g then return reply(claim(id, lease, now + lease_us, requested_us)) end

-- It waits if it is foreseen to be served in time; for a batch until there is capacity, whenever that is. A full queue
-- takes in a tenant that has less than its share of it, up to twice its length.
local SOONEST = 1000000  -- a shorter wait is one for what others are given first
local wait, reason, back = forecast()
if wait and patience > 0 and (wait <= patience or (priority == 'b' and reason == 'busy')) then
  local others, most = setting('waiting_' .. priority) - 1, setting('max_queue_length')
  local own = tonumber(redis.call('HGET', K.waits, flow) or 1) - 1
  local share = math.max(1, most * weight / math.max(weight, setting('weight')))
  if others < most or (others < 2 * most and own < share) then
    return reply({decision = 'wait', wait_us = wait, requested_us = moment(requested_us)})
  end
  reason = 'busy'
end
leave(waiter_of(id))
wait = wait or back or 0
return reply({decision = reason, wait_us = reason == 'busy' and math.max(wait, SOONEST) or wait})
