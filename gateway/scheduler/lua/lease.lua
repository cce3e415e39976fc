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
local id, process, tenant = ARGV[1], ARGV[2], ARGV[3]
local patience, requested_us, repeats = tonumber(ARGV[7]), tonumber(ARGV[8]) or now, tonumber(ARGV[9])
local lease_us = tonumber(ARGV[10])
local avoided = {}
for i = 13, #ARGV do avoided[#avoided + 1] = ARGV[i] end
priority, weight = ARGV[12], tonumber(ARGV[4])
need = classes[class_of(priority, ARGV[5], avoided, ARGV[6])]
flow, cost = priority .. ':' .. tenant, math.max(1, need.n * setting('slots_per_image'))

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
local others_of_flow = tonumber(redis.call('HGET', K.waits, flow) or 1) - 1
local wait, reason, back = forecast(others_of_flow)
if wait and patience > 0 and (wait <= patience or (priority == 'b' and reason == 'busy')) then
  local others, most = setting('waiting_' .. priority) - 1, setting('max_queue_length')
  local share = math.max(1, most * weight / math.max(weight, setting('weight')))
  if others < most or (others < 2 * most and others_of_flow < share) then
    return reply({decision = 'wait', wait_us = wait, requested_us = moment(requested_us)})
  end
  reason = 'busy'
end
leave(waiter_of(id))
wait = wait or back or 0
return reply({decision = reason, wait_us = reason == 'busy' and math.max(wait, SOONEST) or wait})
