-- Shares: what a tenant may take while others use the pool too, of pictures and of concurrency. Shared, after serving.lua.
--
-- A flow is a tenant in one priority. Its pass is the virtual time at which its next request is to be served.
-- Each call is charged the larger of two costs, in slots: its part of the accounts' minutes, when it is granted, and the time
-- for which it holds concurrency, as that passes. A lane is one call that an account may have in flight. The pool has so many
-- slots and so many lane-minutes a minute, and one slot is worth as much lane time as the pool has for each of its slots.
--
--   flows   hash: flow -> msgpack, of those in `recent`: w = weight, h = lanes that it holds, s = charged until, k = slots that
--           are paid and not used up by lane time, d = most lanes that it asked for in a minute, t = when, u = lanes of its
--           share that it asked for and does not hold, v = lanes that it may hold over its share, vt = when it last did, va =
--           the weight of all flows then, r = its moment in `recent`, is_counted = whether its weight is in meta.lane_weight
--   recent  sorted set: flow -> when it last asked for, was given or gave back something
--   used    sorted set: flow -> moment at which its recent use is paid off: beyond a window it is over its share
-- meta: lane_weight = weight of all recent interactive flows, lane_unmet = sum of their u, lane_due = when a lane over the
-- shares may be given next, lanes:GROUP and flying:GROUP = lanes and calls in flight of a group's usable accounts.
local LATELY = MINUTE         -- a flow that was active within this counts for the shares of the others
local SLOT_MIN = 1000000      -- lane time of a slot, at least: few calls for an image are shorter
local NOTED = 1000000         -- by which `recent` may be late, and how often it is looked at

local function cost_of(images) return math.max(1, images * setting('slots_per_image')) end

local function start_of(flow)
  return math.max(setting('virtual'), tonumber(redis.call('ZSCORE', K.idle, flow) or 0))
end

local function charge(pass, cost, weight)
  if pass > setting('virtual') then
    set_meta('virtual', pass)
    redis.call('ZREMRANGEBYSCORE', K.idle, '-inf', pass)
  end
  return pass + cost / weight
end

-- Pictures --------------------------------------------------------------------------------------------------------------

-- The unpaced part of the pool's minute is shared by weight; a tenant that used up its part of it is over its share, and is
-- served at the even pace of the accounts until its use is paid off.
local over = {}

-- Find out at once which of these flows are over their shares.
local function read_over(names)
  local missing = {}
  for _, flow in ipairs(names) do
    if over[flow] == nil then
      over[flow] = false
      missing[#missing + 1] = flow
    end
  end
  if #missing == 0 or setting('paced') <= 0 then return end
  local paid_off, latest = redis.call('ZMSCORE', K.used, unpack(missing)), now + 0.999 * window()
  for i, flow in ipairs(missing) do
    over[flow] = tonumber(paid_off[i] or 0) >= latest or string.sub(flow, 1, 1) == 'b'
  end
end

local function is_over(flow)
  if over[flow] == nil then read_over({flow}) end
  return over[flow]
end

local function note_use(flow, cost, weight)
  if setting('paced') <= 0 then return end
  redis.call('ZREMRANGEBYSCORE', K.used, '-inf', now)
  local all = setting('weight') + (redis.call('HEXISTS', K.waits, flow) == 1 and 0 or weight)
  local share = math.max(1, setting('capacity')) * (1 - setting('paced') / 100) * weight / math.max(all, weight)
  local from = math.max(now, tonumber(redis.call('ZSCORE', K.used, flow) or 0))
  local paid_off = share > 0 and from + cost * window() / share or math.huge
  redis.call('ZADD', touch('used'), math.min(paid_off, now + 2 * window()), flow)
  over[flow] = nil
end

-- Concurrency -----------------------------------------------------------------------------------------------------------

local flows, written = {}, {}
local steps = {}  -- flow -> the pause after the lane over its share that it may be given now

local function read_flows(names) read_fields(flows, 'flows', names, cmsgpack.unpack) end

local function flow_of(flow, weight)
  if flows[flow] == nil then read_flows({flow}) end
  if not flows[flow] then
    flows[flow] = {w = weight or 1, h = 0, s = now, k = 0, d = 0, t = now, u = 0, v = 0, vt = 0, va = 0}
  end
  return flows[flow]
end


local function write_flows()
  local fields = {}
  for flow in pairs(written) do
    fields[#fields + 1] = flow
    fields[#fields + 1] = cmsgpack.pack(flows[flow])
  end
  if #fields > 0 then redis.call('HSET', touch('flows'), unpack(fields)) end
end
before_reply[1] = write_flows

-- Charge a flow for the lanes that it has held since it was charged last.
local function charge_lanes(flow, f)
  local DEBT = 150 * 1000000  -- lane time by which a pass gets ahead of the pool's, at most: that of the longest call
  local used = f.h * math.max(0, now - f.s) * setting('slots_per_us')
  f.s = now
  local paid = math.min(used, f.k)
  f.k = f.k - paid
  written[flow] = true
  if used <= paid then return end
  local waits = redis.call('ZSCORE', K.active, flow)
  local pass = waits and tonumber(waits) or start_of(flow)
  local most = setting('virtual') + DEBT * setting('slots_per_us') / f.w
  local after = math.min(pass + (used - paid) / f.w, math.max(pass, most))
  redis.call('ZADD', touch(waits and 'active' or 'idle'), after, flow)
end

local function weight_beside(f) return setting('lane_weight') + (f.is_counted and 0 or f.w) end

-- The flow is active: `more` lanes more are held by it, and it waits for so many.
local function note_flow(flow, weight, more, waits)
  local f = flow_of(flow, weight)
  charge_lanes(flow, f)
  f.h = math.max(0, f.h + more)
  if math.abs(now - (f.r or 0)) > NOTED then
    redis.call('ZADD', touch('recent'), now, flow)
    f.r = now
  end
  if string.sub(flow, 1, 1) ~= 'i' then return f end
  if weight and (not f.is_counted or f.w ~= weight) then
    add_meta('lane_weight', weight - (f.is_counted and f.w or 0))
    f.w, f.is_counted = weight, true
  end
  local asked = f.h + waits
  if asked >= f.d or math.abs(now - f.t) > LATELY then f.d, f.t = asked, now end
  local share = math.ceil(setting('lanes') * f.w / math.max(f.w, weight_beside(f)))
  local unmet = math.max(0, math.min(share, f.d) - f.h)
  if unmet ~= f.u then
    add_meta('lane_unmet', unmet - f.u)
    f.u = unmet
  end
  return f
end

-- A lane that is given to a flow; `cost` in slots is paid.
local function hold_lane(flow, weight, cost)
  local f = note_flow(flow, weight, 1, 0)
  f.k = math.min(f.k + cost, 2 * cost * f.h)
  if f.h >= f.v or steps[flow] then f.v, f.vt, f.va = f.h, now, weight_beside(f) end
  if steps[flow] then set_meta('lane_due', now + steps[flow]) end
  steps[flow] = nil
end

-- What a flow gave back unused was no lease_request: it asks for what it holds, and for what waits.
local function retract(flow)
  flow_of(flow).d = 0
  note_flow(flow, nil, 0, tonumber(redis.call('HGET', K.waits, flow) or 0))
end

local function free_lane(flow)
  local f = note_flow(flow, nil, -1, 0)
  if f.h == 0 then f.k = 0 end
end

-- Flows that were not active lately and hold nothing count no more.
local function forget_flows()
  if math.abs(now - setting('forgot_at')) < NOTED then return end
  set_meta('forgot_at', now)
  local FORGET = 256  -- flows that one script forgets
  local found = redis.call('ZRANGEBYSCORE', K.recent, '-inf', now - LATELY, 'LIMIT', 0, FORGET)
  if #found == 0 then return end
  redis.call('ZREM', K.recent, unpack(found))
  read_flows(found)
  local gone = {'-'}
  for _, flow in ipairs(found) do
    local f = flows[flow]
    if f and f.h > 0 then
      redis.call('ZADD', touch('recent'), now, flow)
      f.r = now
      written[flow] = true
    elseif f then
      add_meta('lane_weight', f.is_counted and -f.w or 0)
      add_meta('lane_unmet', -f.u)
      gone[#gone + 1] = flow
      flows[flow], written[flow] = nil, nil
    end
  end
  redis.call('HDEL', K.flows, unpack(gone))
end

-- Whether a lane over the flow's share may be given now: one in each step, and those that it was given lately at once.
local function may_exceed(flow, f, base, lanes)
  local RAMP = 30 * 1000000  -- lanes over a share are given one by one over this
  if f.h < f.v and math.abs(now - f.vt) < LATELY and weight_beside(f) <= f.va then return true end
  local step, due = RAMP / math.max(1, lanes - base), setting('lane_due')
  if due > now + step or due < now - math.max(step, 2 * SKEW) then
    set_meta('lane_due', now + step)
    return false
  end
  if due <= now then steps[flow] = step end
  return due <= now
end

-- Whether a flow may hold one lane more, of the accounts that can serve a need. It may up to its share of them; alone up to
-- the unpaced part of them. Beyond that it may take, one by one, what no other flow has lately asked for within its share.
-- Batch flows get no lane that is refused to an interactive one.
local is_refused = false
local function may_hold(flow, need, weight)
  local ALONE_MIN = 2  -- lanes that a flow alone may hold at once, in the smallest pool too
  local RESERVE = 0.5  -- the most of all lanes that are kept free for flows below their shares
  local f, lanes, flying = flow_of(flow, weight), 0, 0
  for _, group in ipairs(able_groups(need)) do
    lanes, flying = lanes + setting('lanes:' .. group), flying + setting('flying:' .. group)
  end
  local all = weight_beside(f)
  local base = math.max(1, math.ceil(lanes * f.w / all))
  if all <= f.w then base = math.max(ALONE_MIN, math.ceil(lanes * (1 - setting('paced') / 100))) end
  local is_batch = string.sub(flow, 1, 1) == 'b'
  if is_batch and is_refused then return false end
  if math.min(f.h, flying) < base then return true end
  charge_lanes(flow, f)
  local unmet = math.min(setting('lane_unmet') - f.u, math.floor(lanes * RESERVE))
  local may = lanes - flying > unmet and may_exceed(flow, f, base, lanes)
  is_refused = is_refused or not (may or is_batch)
  return may
end
