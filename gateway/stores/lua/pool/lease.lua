-- Lease an account and a key for one call, or take a place in the queue, or be refused at once.
-- KEYS     see prelude.lua
-- ARGV[1]  id of the lease, unique
-- ARGV[2]  channel of the process, at which it hears of what waiting requests are given; it is also its name
-- ARGV[3]  tenant, ARGV[4] its weight
-- ARGV[5]  images of the call, ARGV[6] the upstream's name of the model
-- ARGV[7]  the longest wait, microseconds; 0 does not wait; below 0 takes nothing but what stands free, with no queue before it
-- ARGV[8]  the moment at which the request first asked, for its place among its tenant's; "" for now
-- ARGV[9]  1 where the call repeats one that this upstream failed, and counts for the breaker; 2 where it repeats another
-- ARGV[10] how long the lease lives without being renewed; ARGV[11] likewise the process
-- ARGV[12..] what to avoid: "ACCOUNT/" or "ACCOUNT/KEY"
-- Returns  JSON: verdict "leased" with account, key, fingerprint, at_us, asked_us; "wait" with wait_us (as foreseen) and
--          asked_us; "busy" (wait_us: until there would be room); "down" (wait_us: until it may be back, 0 unknown);
--          "nothing": all that could serve is to be avoided; "spent": too many calls were repeated; "later": nothing stands free; "unknown": Redis knows no such pool
local id, process, tenant, weight = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local images, model, patience = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local asked = tonumber(ARGV[8]) or now
local repeats = tonumber(ARGV[9])
local avoided_list = {}
for i = 12, #ARGV do avoided_list[#avoided_list + 1] = ARGV[i] end
local avoided = avoided_by(avoided_list)
local cost = cost_of(images)
local TRIAL = 5 * 1000000  -- so long a trial of what has rested is taken to last
local CANDIDATES = 16  -- accounts that a forecast looks at; of more it takes these for a sample

-- What an account offers from when on: nil, or a moment. Notes in `sums` why it offers nothing.
local function offers_from(a, sums)
  if redis.call('HGET', K.held, a.name) or images > a.record.images_per_minute then return nil end
  if avoided[a.name .. '/'] then
    sums.avoided = true
    return nil
  end
  local key, back, rest = key_of(a, model, {})
  if key then
    if key_of(a, model, avoided) then return now end
    sums.avoided = true
    return nil
  end
  if rest and rest.until_us > now and rest.state == 'cooling' and (rest.busy or back <= now + patience) then return back end
  if rest and rest.until_us <= now then return now end  -- half open, and somebody tries it
  if back > 0 and back < sums.back then sums.back = back end
  return nil
end

-- What becomes free at an account, and when: {lanes free now, lanes, moments, slots that its minute has by each of them}.
local function slots_of(a, from)
  local free, log, moments, slots = rate_of(a) - a.requests, a.load.log, {from}, {}
  slots[1] = free  -- less than 0 where more was sent than it is now believed to allow
  for i = 1, #log, 3 do
    free = free + log[i + 1]
    moments[#moments + 1], slots[#slots + 1] = math.max(from, log[i] + window()), free
  end
  local lanes = lanes_of(a)
  return {lanes - a.load.flying, lanes, moments, slots}
end

-- How many slots of these accounts are free by a moment: when their minutes have room and, as calls have lately lasted so
-- long, calls under way have ended.
local function slots_by(us, found, call_us)
  local sum = 0
  for _, one in ipairs(found) do
    local moments, low, high = one[3], 0, #one[3]
    while low < high do  -- the last moment that has come
      local middle = math.ceil((low + high) / 2)
      if moments[middle] <= us then low = middle else high = middle - 1 end
    end
    local free = low > 0 and one[4][low] or 0
    if call_us > 0 then free = math.min(free, one[1] + math.floor((us - now) * one[2] / call_us)) end
    sum = sum + math.max(0, free)
  end
  return sum
end

-- The moment at which the slot with this number is free, to a tenth of a millisecond.
local function moment_of(number, found)
  local call_us, all = setting('call_us'), 0
  for _, one in ipairs(found) do all = all + math.max(0, one[4][#one[4]]) end
  local rounds = math.floor((number - 1) / all)
  number = (number - 1) % all + 1
  local low, high = now, now
  for _, one in ipairs(found) do
    high = math.max(high, one[3][#one[3]] + (number + math.max(0, -one[1])) * call_us)
  end
  if slots_by(low, found, call_us) >= number then high = low end
  while high - low > 100 do
    local middle = math.floor((low + high) / 2)
    if slots_by(middle, found, call_us) >= number then high = middle else low = middle end
  end
  return high + rounds * window()
end

-- When an account has room for the images.
local function images_from(a, from)
  local missing, log = a.images + images - a.record.images_per_minute, a.load.log
  if missing <= 0 then return from end
  for i = 1, #log, 3 do
    missing = missing - log[i + 2]
    if missing <= 0 then return math.max(from, log[i] + window()) end
  end
  return from
end

-- How many slots pass until it would be served: all that wait, or its own and the others' shares beside them.
local function slots_ahead()
  local queued, waiting = setting('queued'), redis.call('ZCARD', K.line)
  if waiting == 0 then return cost end
  local own = redis.call('ZLEXCOUNT', K.line, '[' .. tenant .. '|', '(' .. tenant .. '}')
  local all = setting('weight') + (own == 0 and weight or 0)
  local fair = (own * queued / waiting + cost) * all / weight
  return math.min(queued + cost, fair)
end

-- Microseconds until it would be served; nil where nobody can, with the reason: busy, down, nothing.
local function forecast()
  local names, sums, found, soonest = {}, {back = math.huge}, {}, math.huge
  for _, set in ipairs({K.ready, K.turns}) do
    for _, name in ipairs(redis.call('ZRANGE', set, 0, CANDIDATES - 1)) do names[name] = true end
  end
  local ahead, seen = slots_ahead(), 0
  for name in pairs(names) do
    local a = account(name)
    local from = a and a.record and offers_from(a, sums)
    if from then
      found[#found + 1] = slots_of(a, from)
      soonest = math.min(soonest, images_from(a, from))
    end
    seen = seen + 1
  end
  if #found == 0 then
    if sums.avoided then return nil, 'nothing' end
    return nil, 'down', sums.back < math.huge and sums.back - now or 0
  end
  local all = math.max(redis.call('ZCARD', K.ready), redis.call('ZCARD', K.turns))
  local number = math.max(1, math.ceil(all > seen and ahead * seen / all or ahead))
  return math.max(moment_of(number, found), soonest) - now
end

local function lease_now(found, pass)
  local next_pass = charge(tenant, pass, cost, weight)
  redis.call('ZADD', touch('idle'), next_pass, tenant)
  count_call(repeats > 0)
  local lease = take(found[1], found[2], found[3], id, tenant, images, now + tonumber(ARGV[10]), repeats)
  local answer = leased('leased', id, lease)
  answer.asked_us = moment(asked)
  return answer
end

-- A full line takes in who has less than his share of it, up to twice its length.
local function is_line_full()
  local waiting, most = redis.call('ZCARD', K.line), setting('queue_max')
  if waiting < most then return false end
  local own = redis.call('ZLEXCOUNT', K.line, '[' .. tenant .. '|', '(' .. tenant .. '}')
  local all = setting('weight') + (own == 0 and weight or 0)
  return waiting >= 2 * most or own >= math.max(1, most * weight / all)
end

-- What it is given, if it is its turn for something that is free: who waits needs something else than this.
local function join_line()
  redis.call('ZADD', touch('processes'), now + tonumber(ARGV[11]), process)
  join({id = id, t = tenant, w = weight, at = asked, n = images, m = model, x = avoided_list, p = process, c = cost,
    r = repeats})
  dispatch()
  local given = lease_of(id)
  if not given then return nil end
  local answer = claim(id, given, now + tonumber(ARGV[10]))
  answer.asked_us = moment(asked)
  return answer
end

if not meta.version then return reply({verdict = 'unknown'}) end
while look_after() and redis.call('ZCARD', K.ready) == 0 do end
local is_open, back = gate()
if is_open == 0 then return reply({verdict = 'down', wait_us = back > 0 and back - now or TRIAL}) end
if repeats == 1 then
  local calls, retries = calls_lately()
  if retries + 1 > math.max(setting('retries_min'), (calls - retries) * setting('retry_percent') / 100) then
    return reply({verdict = 'spent'})
  end
end
if redis.call('ZCARD', K.active) == 0 then
  local found = choose(images, model, avoided, {})
  if found then return reply(lease_now(found, start_of(tenant))) end
end
if patience < 0 then return reply({verdict = 'later'}) end
local wait, reason, later = forecast()
if not wait then return reply({verdict = reason, wait_us = later or 0}) end
if (wait > patience and wait > 0) or is_line_full() then
  return reply({verdict = 'busy', wait_us = wait})
end
local given = join_line()
if given then return reply(given) end
if patience <= 0 then
  leave(place_of(id))
  return reply({verdict = 'busy', wait_us = wait})
end
return reply({verdict = 'wait', wait_us = wait, asked_us = moment(asked)})
