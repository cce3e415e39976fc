-- When a waiting request will be served: the one forecast, for requests that join the queue and for those that ask
-- again. Shared, after dispatch.lua. A script sets these for its request first.
local need, flow, cost, weight, priority  -- its class, its flow, its slots, its tenant's weight, and "i" or "b"
local slots_ahead, forecast

do  -- a script has at most 200 local names
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
  -- and the others' shares beside them. `own`: requests of its flow that go before it. Also the slots of one of the
  -- others.
  function slots_ahead(own)
    local queued, names = 0, {}
    for _, class in ipairs(first_classes()) do
      if (class.q == 'i' or priority == 'b') and #able_groups(class) > 0 then names[#names + 1] = class.name end
    end
    local costs = #names > 0 and redis.call('HMGET', K.queued, unpack(names)) or {}
    for _, one in ipairs(costs) do queued = queued + (tonumber(one) or 0) end
    if priority == 'b' then return math.max(cost, queued), cost end
    local each = setting('waiting_i') > 1 and math.max(0, queued - cost) / (setting('waiting_i') - 1) or 0
    local fair = (own * each + cost) * math.max(weight, setting('weight')) / weight
    return math.max(cost, math.min(queued, fair)), each
  end

  -- Microseconds until this request, which waits behind `own` of its flow, is served, and why it waits; nil if nothing
  -- can serve it, with the reason; see outlook.
  function forecast(own)
    local soonest, reason, back = outlook(need, is_over(flow))
    if not soonest then return nil, reason, back > now and back - now or 0 end
    local found = reason == 'busy' and sample() or {}
    if #found == 0 then return soonest - now, reason end
    local ahead, span = slots_ahead(own), found.span
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
end
