-- Shares: what a tenant may take while others use the pool too, of images and of concurrency. Shared, after
-- serving.lua.
--
-- A flow is a tenant in one priority. Its pass is the virtual time at which its next request is to be served. Each call
-- is charged the larger of two costs, in slots: its part of the accounts' minutes, when it is granted, and the time for
-- which it is in flight, as that passes. One slot is worth as much of that time as the pool's concurrency has in a
-- minute for each of its slots.
--
--   flows   hash: flow -> msgpack, of those in `recent`: w = weight, h = calls that it has in flight, s = charged
--           until, k = slots that are paid and not used up by the time of calls, d = most calls that it requested in a
--           minute, t = when, u = calls of its share that it requested and has not in flight, v = calls that it may
--           have over its share, vt = when it last had them, va = the weight of all flows then, r = its moment in
--           `recent`, is_counted = whether its weight is in meta.share_weight
--   recent  sorted set: flow -> when it last requested, got or gave back something
--   used    sorted set: interactive flow -> moment at which its recent use is paid off: beyond a window it is over its
--           share
-- meta: share_weight = weight of all recent interactive flows, share_unmet = sum of their u, over_share_due = when a
-- call over the shares may begin next, concurrency:GROUP and in_flight:GROUP = sums of a group's usable accounts,
-- interactive_at = when an interactive call was last requested, interactive_n = images of the largest one of a minute,
-- interactive_n_at = when, batch_waits = 1 if a batch was lately kept from concurrency that it must leave
local LATELY = MINUTE         -- a flow that was active within this counts for the shares of the others
local SLOT_MIN = 1000000      -- time in flight of a slot, at least: few calls for an image are shorter
local NOTED = 1000000         -- by which `recent` may be late, and how often it is looked at

local function is_batch(flow) return string.sub(flow, 1, 1) == 'b' end

-- A flow's pass, and the set that has it. One that comes (back) starts at the pool's virtual time.
local function pass_of(flow)
  local pass = redis.call('ZSCORE', K.active, flow)
  if pass then return tonumber(pass), 'active' end
  return math.max(setting('virtual'), tonumber(redis.call('ZSCORE', K.idle, flow) or 0)), 'idle'
end

-- Images --------------------------------------------------------------------------------------------------------------

-- The unpaced part of the pool's minute is shared by weight; a tenant that used up its part of it is over its share,
-- and is served at the even pace of the accounts until its use is paid off.
local over = {}

-- Finds out at once which of these flows are over their shares.
local function read_over(names)
  if #names == 0 or setting('paced') <= 0 then return end
  local paid_off, latest = redis.call('ZMSCORE', K.used, unpack(names)), now + 0.999 * window()
  for i, flow in ipairs(names) do over[flow] = tonumber(paid_off[i] or 0) >= latest or is_batch(flow) end
end

local function is_over(flow)
  if over[flow] == nil then read_over({flow}) end
  return over[flow] or false
end

-- Flows that wait and were below their shares when this was asked first, the lowest pass first; not all of very many.
local below = nil
local function flows_below()
  local READ_MAX, FLOWS_MAX = 256, 64
  if below then return below end
  below = {is_complete = false}
  for from = 0, READ_MAX - 1, FLOWS_MAX do
    if below.is_complete or #below == FLOWS_MAX then break end
    local names = redis.call('ZRANGE', K.active, from, from + FLOWS_MAX - 1)
    below.is_complete = #names < FLOWS_MAX
    read_over(names)
    for _, flow in ipairs(names) do
      if not over[flow] and #below < FLOWS_MAX then below[#below + 1] = flow end
    end
  end
  return below
end

-- A flow pays for a call: for its share of images, and for its turn. Returns its new pass.
local function pay(flow, cost, weight)
  local pass = pass_of(flow)
  if pass > setting('virtual') then
    set_meta('virtual', pass)
    redis.call('ZREMRANGEBYSCORE', K.idle, '-inf', pass)
  end
  if setting('paced') > 0 and not is_batch(flow) then
    redis.call('ZREMRANGEBYSCORE', K.used, '-inf', now)
    local all = setting('weight') + (redis.call('HEXISTS', K.waits, flow) == 1 and 0 or weight)
    local share = math.max(1, setting('capacity')) * (1 - setting('paced') / 100) * weight / math.max(all, weight)
    local from = math.max(now, tonumber(redis.call('ZSCORE', K.used, flow) or 0))
    local paid_off = share > 0 and from + cost * window() / share or math.huge
    redis.call('ZADD', touch('used'), math.min(paid_off, now + 2 * window()), flow)
    over[flow] = nil
  end
  return pass + cost / weight
end

-- Concurrency ---------------------------------------------------------------------------------------------------------

local flows, read_flows = cached('flows', cmsgpack.unpack)
local written = {}
local steps = {}  -- flow -> the pause after the call over its share that may begin now

local function flow_of(flow, weight)
  flows[flow] = flows[flow] or {w = weight or 1, h = 0, s = now, k = 0, d = 0, t = now, u = 0, v = 0, vt = 0, va = 0}
  return flows[flow]
end

function before_reply()
  local fields = {}
  for flow in pairs(written) do
    fields[#fields + 1] = flow
    fields[#fields + 1] = cmsgpack.pack(flows[flow])
  end
  if #fields > 0 then redis.call('HSET', touch('flows'), unpack(fields)) end
end

-- Charges a flow for the time that its calls were in flight since it was charged last.
local function charge_time(flow, f)
  local DEBT = 150 * 1000000  -- time by which a pass gets ahead of the pool's, at most: that of the longest call
  local used = f.h * math.max(0, now - f.s) * setting('slots_per_us')
  f.s = now
  local paid = math.min(used, f.k)
  f.k = f.k - paid
  written[flow] = true
  if used <= paid then return end
  local pass, set = pass_of(flow)
  local most = setting('virtual') + DEBT * setting('slots_per_us') / f.w
  redis.call('ZADD', touch(set), math.min(pass + (used - paid) / f.w, math.max(pass, most)), flow)
end

local function weight_beside(f) return setting('share_weight') + (f.is_counted and 0 or f.w) end

-- Records activity of a flow: `more` more calls in flight, and `waits` requests in the queue.
local function note_flow(flow, weight, more, waits)
  local f = flow_of(flow, weight)
  charge_time(flow, f)
  f.h = math.max(0, f.h + more)
  if f.h == 0 then f.k = 0 end
  if math.abs(now - (f.r or 0)) > NOTED then
    redis.call('ZADD', touch('recent'), now, flow)
    f.r = now
  end
  if is_batch(flow) then return f end
  if weight and (not f.is_counted or f.w ~= weight) then
    add_meta('share_weight', weight - (f.is_counted and f.w or 0))
    f.w, f.is_counted = weight, true
  end
  local requested = f.h + waits
  if requested >= f.d or math.abs(now - f.t) > LATELY then f.d, f.t = requested, now end
  local share = math.ceil(setting('concurrency') * f.w / math.max(f.w, weight_beside(f)))
  local unmet = math.max(0, math.min(share, f.d) - f.h)
  if unmet ~= f.u then
    add_meta('share_unmet', unmet - f.u)
    f.u = unmet
  end
  return f
end

-- A call of a flow begins; `cost` in slots is paid.
local function begin_call(flow, weight, cost)
  local f = note_flow(flow, weight, 1, 0)
  f.k = math.min(f.k + cost, 2 * cost * f.h)
  if f.h >= f.v or steps[flow] then f.v, f.vt, f.va = f.h, now, weight_beside(f) end
  if steps[flow] then set_meta('over_share_due', now + steps[flow]) end
  steps[flow] = nil
end

-- An interactive call of n images is requested: see kept_of.
local function note_interactive(n)
  if math.abs(now - setting('interactive_at')) > NOTED then set_meta('interactive_at', now) end
  if n >= setting('interactive_n') or math.abs(now - setting('interactive_n_at')) > LATELY then
    set_meta('interactive_n', n)
    set_meta('interactive_n_at', now)
  end
end

-- What a flow gave back unused was no request: it asks for what it has in flight, and for what waits.
local function retract(flow)
  flow_of(flow).d = 0
  note_flow(flow, nil, 0, tonumber(redis.call('HGET', K.waits, flow) or 0))
end

-- Flows that were not active lately and have nothing in flight count no more.
local function forget_flows()
  local FORGET = 256  -- flows that one script forgets
  if math.abs(now - setting('forgot_at')) < NOTED then return end
  set_meta('forgot_at', now)
  local found = redis.call('ZRANGEBYSCORE', K.recent, '-inf', now - LATELY, 'LIMIT', 0, FORGET)
  if #found == 0 then return end
  redis.call('ZREM', K.recent, unpack(found))
  read_flows(found)
  local gone = {'-'}
  for _, flow in ipairs(found) do
    local f = flows[flow]
    if f and f.h > 0 then
      redis.call('ZADD', touch('recent'), now, flow)
      f.r, written[flow] = now, true
    elseif f then
      add_meta('share_weight', f.is_counted and -f.w or 0)
      add_meta('share_unmet', -f.u)
      gone[#gone + 1] = flow
      flows[flow], written[flow] = false, nil
    end
  end
  redis.call('HDEL', K.flows, unpack(gone))
end

-- Whether a call over the flow's share may begin now: one in each step, and those that it was given lately at once.
local function may_exceed(flow, f, share, concurrency)
  local RAMP = 30 * 1000000  -- calls over a share begin one by one over this
  if f.h < f.v and math.abs(now - f.vt) < LATELY and weight_beside(f) <= f.va then return true end
  local step, due = RAMP / math.max(1, concurrency - share), setting('over_share_due')
  if due > now + step or due < now - math.max(step, 2 * SKEW) then
    set_meta('over_share_due', now + step)
    return false
  end
  if due <= now then steps[flow] = step end
  return due <= now
end

-- Whether a flow may begin one call more, at the accounts that can serve a need. It may up to its share of them; alone
-- up to the unpaced part of them. Beyond that it may take, one by one, what no other flow has lately requested within
-- its share. Batch flows get nothing that is refused to an interactive one, and leave some of it while those come.
local is_refused = false
local function may_begin(flow, need, weight)
  local ALONE_MIN = 2  -- calls that a flow alone may begin at once, in the smallest pool too
  local RESERVE = 0.5  -- the most of the concurrency that is kept free for flows below their shares
  local f, concurrency, in_flight = flow_of(flow, weight), 0, 0
  for _, group in ipairs(able_groups(need)) do
    concurrency = concurrency + setting('concurrency:' .. group)
    in_flight = in_flight + setting('in_flight:' .. group)
  end
  local free, most = concurrency - in_flight, math.floor(concurrency * RESERVE)
  local kept = is_interactive() and math.min(math.max(1, setting('share_unmet')), most) or 0
  if is_batch(flow) and (is_refused or free <= kept) then
    set_meta('batch_waits', 1)
    return false
  end
  local all = weight_beside(f)
  local share = math.max(1, math.ceil(concurrency * f.w / all))
  if all <= f.w then share = math.max(ALONE_MIN, math.ceil(concurrency * (1 - setting('paced') / 100))) end
  if math.min(f.h, in_flight) < share then return true end
  charge_time(flow, f)
  local may = free > math.min(setting('share_unmet') - f.u, most) and may_exceed(flow, f, share, concurrency)
  is_refused = is_refused or not (may or is_batch(flow))
  return may
end
