-- Lease an account and a key for one call, or take a place in the queue, or refuse.
-- ARGV[1]  id of the lease, unique
-- ARGV[2]  channel of the process, at which it hears of what waiting requests are given; it is also its name
-- ARGV[3]  tenant, ARGV[4] its weight
-- ARGV[5]  images of the call, ARGV[6] the upstream's name of the model
-- ARGV[7]  the longest wait, microseconds; 0 does not wait
-- ARGV[8]  the moment at which the request first asked, for its place among its tenant's; "" for now
-- ARGV[9]  1 if the call repeats one that this upstream failed, and counts for the breaker; 2 if it repeats another
-- ARGV[10] how long the lease lives without being renewed; ARGV[11] likewise the process
-- ARGV[12] "i" interactive or "b" batch
-- ARGV[13..] what to avoid: "ACCOUNT/" or "ACCOUNT/KEY"
-- Returns  JSON: decision "leased" with account, key, fingerprint, at_us, asked_us; "wait" with wait_us (as foreseen) and
--          asked_us; "busy" (wait_us: until there would be room); "down" (wait_us: until it may be back, 0 unknown);
--          "nothing": all that could serve is to be avoided; "spent": too many calls were repeated; "unknown": Redis
--          knows no such pool
local id, process, tenant, weight = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local patience, asked, repeats = tonumber(ARGV[7]), tonumber(ARGV[8]) or now, tonumber(ARGV[9])
local lease_us, priority = tonumber(ARGV[10]), ARGV[12] or 'i'
local avoided = {}
for i = 13, #ARGV do avoided[#avoided + 1] = ARGV[i] end
local need = {n = tonumber(ARGV[5]), m = ARGV[6], x = #avoided > 0 and set_of(avoided) or nil}
local flow, cost = priority .. ':' .. tenant, cost_of(need.n)

-- Lift a rest that other tenants' calls alone caused, also if a call tries it: they may make that as slow as they like. Returns
-- whether it was lifted.
local function lift_one(set, field)
  local rest = rest_at(field)
  local is_blamed = rest and rest.by and not rest.lifted
  if is_blamed and (set_of(rest.by)[tenant] or rest.firm_us > now) then return false end
  redis.call('SREM', set, field)
  if not is_blamed then return false end
  move(field, 'enable')
  rest = rest_at(field)
  rest.lifted = true
  keep_rest(field, rest)
  local a = account(string.match(field, '^[^/|]*'))
  if a then put_back(a) end
  return true
end

-- Lift some of the rests that other tenants' calls alone caused. Returns whether there were any.
local function lift_blamed()
  local LIFTS_MAX, LOOKED_AT, lifted = 10, 100, 0
  for _, set in ipairs({K.blamed, K['blamed:' .. need.m]}) do
    local fields = redis.call('SRANDMEMBER', set, LOOKED_AT)
    read_rests(fields)
    for _, field in ipairs(fields) do
      if lifted < LIFTS_MAX and lift_one(set, field) then lifted = lifted + 1 end
    end
  end
  return lifted > 0
end

-- Half open the circuit breaker before its time, for a tenant whose calls do not fail again and again. Returns whether it
-- was.
local function lift_breaker()
  local star = rest_at('*')
  if not (star and star.ill and is_out(star)) then return false end
  if (tonumber(redis.call('HGET', K.ailing, tenant)) or 0) > 1 then return false end
  local resumes = star.until_us
  move('*', 'enable')
  star.resumes = resumes
  keep_rest('*', star)
  return true
end

local forecast
do
  local SAMPLE = 8        -- accounts of a kind that a forecast looks at; of more it takes these for a sample

  -- What becomes free at an account, and when: {lanes free now, lanes, moments, slots that its minute has by each of them}.
  local function slots_of(a, from)
    local free, log, moments, slots, span = rate_of(a) - a.requests, a.load.log, {from}, {}, window()
    slots[1] = free  -- below 0 if more was sent than it is now believed to allow
    for i = 1, #log, 4 do
      free = free + log[i + 1]
      moments[#moments + 1], slots[#slots + 1] = math.max(from, log[i] + span), free
    end
    local lanes = lanes_of(a)
    return {lanes - a.load.flying, lanes, moments, slots, passed = 0}
  end

  -- Whether these accounts have the slots by a time: their minutes have capacity and, as long as calls lasted recently,
  -- calls in flight have ended. If not, only later moments are asked for.
  local function have_slots(number, us, found, call_us)
    local sum = 0
    for _, one in ipairs(found) do
      local moments, low, high = one[3], one.passed, #one[3]
      while low < high do  -- the last moment that has come
        local middle = math.ceil((low + high) / 2)
        if moments[middle] <= us then low = middle else high = middle - 1 end
      end
      local free = low > 0 and one[4][low] or 0
      if call_us > 0 then free = math.min(free, one[1] + math.floor((us - now) * one[2] / call_us)) end
      if free > 0 then sum = sum + free end
      if sum >= number then return true end
      one.seen = low
    end
    for _, one in ipairs(found) do one.passed = one.seen end
    return false
  end

  -- How many slots these accounts have in a minute.
  local function slots_in_all(found)
    local all = 0
    for _, one in ipairs(found) do all = all + math.max(0, one[4][#one[4]]) end
    return math.max(1, all)
  end

  -- The moment at which the slot with this number is free, to a millisecond.
  local function moment_of(number, found)
    local call_us, all = setting('call_us'), slots_in_all(found)
    local rounds = math.floor((number - 1) / all)
    number = (number - 1) % all + 1
    local low, high = now, now
    for _, one in ipairs(found) do
      local slots = one[4][#one[4]]
      high = math.max(high, one[3][#one[3]], now + 1 + math.ceil((slots - one[1]) * call_us / one[2]))
    end
    if have_slots(number, low, found, call_us) then high = low end
    while high - low > 1000 do
      local middle = math.floor((low + high) / 2)
      if have_slots(number, middle, found, call_us) then high = middle else low = middle end
    end
    return high + rounds * window()
  end

  -- How many slots pass until this request, which waits, is served: all that wait for what could serve it, or its own and the
  -- others' shares beside them.
  local function slots_ahead()
    local queued, numbers = 0, {}
    for _, class in ipairs(first_classes()) do
      if (class.q == 'i' or priority == 'b') and #able_groups(class) > 0 then numbers[#numbers + 1] = class.number end
    end
    local costs = #numbers > 0 and redis.call('HMGET', K.queued, unpack(numbers)) or {}
    for _, one in ipairs(costs) do queued = queued + (tonumber(one) or 0) end
    if priority == 'b' then return math.max(cost, queued) end
    local own = tonumber(redis.call('HGET', K.waits, flow) or 1) - 1
    local each = waiting('i') > 1 and math.max(0, queued - cost) / (waiting('i') - 1) or 0
    local fair = (own * each + cost) * math.max(weight, setting('weight')) / weight
    return math.max(cost, math.min(queued, fair))
  end

  -- Accounts of these kinds that can serve the need at some time, a sample of them; and how many they are.
  local function sample()
    local found, all, span, is_over_now = {}, 0, 0, is_over(flow)
    for _, kind in ipairs({'due', 'early', 'full', 'resting'}) do
      local left = SAMPLE
      for _, group in ipairs(able_groups(need)) do
        if kind ~= 'early' then all = all + redis.call('ZCARD', K[(kind == 'due' and 'ready' or kind) .. ':' .. group]) end
        local entries, names = front(kind, group), {}
        for i = 1, math.min(left, #entries / 2) do names[i] = entries[2 * i - 1] end
        left = left - #names
        read_keys(names, need.m)
        for _, name in ipairs(names) do
          local a = account(name)
          local at = a and serve_at(a, need, false)
          if at then
            found[#found + 1] = slots_of(a, kind == 'resting' and at or now)
            if is_over_now then span = span + select(2, pace_of(a)) end
          end
        end
      end
    end
    return found, math.max(all, #found), #found > 0 and span / #found or 0
  end

  -- Microseconds until an account has granted these slots: for a minute one in each span, as its capacity is spread, then at
  -- the rate at which slots get free.
  local function paced_us(slots, span, found)
    local paced = slots * span
    if paced <= window() then return paced end
    return math.min(paced, window() + (slots - window() / span) * window() * #found / slots_in_all(found))
  end

  -- Microseconds until this request, which waits, is served; nil if nothing can serve it, with the reason; see outlook.
  function forecast()
    local soonest, kind, more = outlook(need, is_over(flow))
    if not soonest then return nil, kind, more > now and more - now or 0 end
    if kind == 'down' then return soonest - now, kind end
    local found, all, span = sample()
    if #found == 0 then return soonest - now, kind end
    local ahead = slots_ahead()
    local at = math.max(moment_of(math.max(1, math.ceil(ahead * #found / all)), found), soonest)
    if span > 0 then at = math.max(at, soonest + paced_us((ahead - cost) / all, span, found)) end
    if not may_hold(flow, need) then at = math.max(at, now + setting('call_us') / math.max(1, flow_of(flow).h)) end
    return at - now, kind
  end
end

-- Lease without a wait, if the queue is empty; nil if nothing is free.
local function lease_at_once()
  if redis.call('EXISTS', K.classes) == 1 or gate() == 0 or not may_hold(flow, need, weight) then return nil end
  local over = is_over(flow)
  local found = choose(need, over, {})
  if not found then return nil end
  note_use(flow, cost, weight)
  redis.call('ZADD', touch('idle'), charge(start_of(flow), cost, weight), flow)
  count_call(repeats > 0)
  local lease = take(found, {id = id, t = tenant, q = priority, w = weight, c = cost, n = need.n, r = repeats}, now + lease_us, over)
  local answer = leased('leased', id, lease)
  answer.asked_us = moment(asked)
  return answer
end

-- A full queue takes in a tenant that has less than its share of it, up to twice its length.
local function is_line_full()
  local others, most = waiting(priority) - 1, setting('max_queue_length')
  if others < most then return false end
  local own = tonumber(redis.call('HGET', K.waits, flow) or 1) - 1
  return others >= 2 * most or own >= math.max(1, most * weight / math.max(weight, setting('weight')))
end

-- Join the queue, and take what it is given if it is its turn for something that is free.
local function join_line()
  redis.call('ZADD', touch('processes'), now + tonumber(ARGV[11]), process)
  join({q = priority, n = need.n, m = need.m, x = avoided},
    {id = id, f = flow, w = weight, at = asked, d = now + patience, p = process, c = cost, r = repeats})
  dispatch()
  local given = lease_of(id)
  if not given or not given.g then return nil end
  local answer = claim(id, given, now + lease_us)
  answer.asked_us = moment(asked)
  return answer
end

local function refuse(decision, wait_us)
  local SOONEST = 1000000  -- a shorter wait is one for what others are given first
  leave(place_of(id))
  if decision == 'busy' then wait_us = math.max(wait_us, SOONEST) end
  return {decision = decision, wait_us = wait_us or 0}
end

local function decide()
  if not meta.version then return {decision = 'unknown'} end
  if setting('lease_us') ~= lease_us then set_meta('lease_us', lease_us) end
  for _ = 1, 4 do  -- batches of what time has brought, before a request is refused
    if not look_after() or is_freed then break end
  end
  if repeats == 1 then
    local calls, retries = calls_lately()
    if retries + 1 > math.max(setting('retries_min'), (calls - retries) * setting('retry_budget_percent') / 100) then
      return {decision = 'spent'}
    end
  end
  local given = lease_at_once()
  if given then return given end
  given = (lift_breaker() or lift_blamed()) and lease_at_once() or join_line()
  if given then return given end
  local wait, kind, back = forecast()
  if not wait then return refuse(kind, back) end
  if wait > patience or patience <= 0 then return refuse(kind, wait) end
  if is_line_full() then return refuse('busy', wait) end
  return {decision = 'wait', wait_us = wait, asked_us = moment(asked)}
end

return reply(decide())
