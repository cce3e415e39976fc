-- Repeated requests: which order a request repeats, so that it joins it and buys nothing. Stands before admit.lua and
-- jobs/lua/poll.lua; BASE is the tenant's "PREFIX:{NAME}:".
--   BASE .. "idempotency:NAME"   hash of an Idempotency-Key or of a batch's line: fingerprint, and order, the reservation ID
--                                of its order
--   BASE .. "idempotency_keys"   hash: a twenty-fourth of the retention -> keys first used in it
--   BASE .. "orders:NAME"        sorted set of one request of an API key: reservation ID -> admission (Unix ms). A refused
--                                attempt is a member without a reservation, if the set exists
--   BASE .. "unknown:NAME"       string: reservation ID of such a request whose outcome is unknown
--   BASE .. "outcome:ID"         string, JSON: the outcome of an order, see jobs/outcomes.py
-- An order's reservation has also: owner, the channel of its process; idempotency, the NAME of its key, and kept_s, its
-- retention; or identity, the NAME of its request, and unknown_ms; and joined, the number of requests that joined it.
-- TTL      idempotency, idempotency_keys and unknown as the identity says, but of a batch's line 3 days; orders 15 minutes, as
--          settled reservations
-- Clock    the server's
--
-- States of an order, by what Redis holds of it:
--   outcome:ID   reservation                                     state      a repeated request
--   stored       any                                             ended      gets the outcome
--   absent       not settled, or its process died unswept        running    waits
--   absent       settled as delivered, lost, withheld < 10 s ago,
--                or < 60 s ago with a key                      running    waits, and asks the process to store it
--   absent       the same, longer ago                            gone       is refused
--   absent       settled as unconfirmed < 1 s ago                running    waits until its process has stored the error
--   absent       the same, longer ago                            unknown    gets the error of an unknown outcome
--   absent       refused or never sent, or absent                free       becomes an order itself
-- A process holds a result for 10 s. With a key, it converts the images (30 s) and stores them in any case.
local ENDING_MS, KEYED_ENDING_MS, STORING_MS = 10000, 60000, 1000
local ORDERS_KEPT_MS, ORDERS_MAX = 900 * 1000, 16
-- Longer than a batch's window of 24 h: while its line has not ended, nothing else says that it was bought.
local LINE_KEPT_MS = 3 * 86400 * 1000

local function order_state(base, id, now_ms)
  if redis.call('EXISTS', base .. 'outcome:' .. id) == 1 then return 'ended' end
  local found = redis.call('HMGET', base .. 'reservation:' .. id, 'model', 'settled', 'outcome', 'settled_ms',
    'idempotency')
  if not found[1] then return 'free' end
  if not found[2] then return 'running' end
  if found[3] == 'not_sent' or found[3] == 'refused' then return 'free' end
  local age_ms, is_unknown = now_ms - tonumber(found[4] or 0), found[3] == 'unconfirmed'
  local ending_ms = found[5] and KEYED_ENDING_MS or ENDING_MS
  if age_ms < (is_unknown and STORING_MS or ending_ms) then return 'running' end
  return is_unknown and 'unknown' or 'gone'
end

-- Returns the order that a request repeats: id, state, joined (requests that have joined it; absent without its
-- reservation), and left_ms, for which an unknown outcome is still remembered. Returns nil if the request is an order
-- itself. State "reused": the key belongs to another request.
local function find_order(base, identity, now_ms)
  local function joined(id)
    local found = redis.call('HMGET', base .. 'reservation:' .. id, 'model', 'joined')
    return found[1] and tonumber(found[2] or 0) or nil
  end
  if identity.kind == 'keyed' or identity.kind == 'line' then
    local record = redis.call('HMGET', base .. 'idempotency:' .. identity.name, 'fingerprint', 'order')
    local state = record[1] and order_state(base, record[2], now_ms) or 'free'
    if state == 'free' then return nil end
    if record[1] ~= identity.fingerprint then return {state = 'reused'} end
    return {id = record[2], state = state, joined = joined(record[2])}
  end
  local unknown = base .. 'unknown:' .. identity.name
  local id = redis.call('GET', unknown)
  if id then return {id = id, state = 'unknown', left_ms = redis.call('PTTL', unknown)} end
  if identity.kind ~= 'retry' then return nil end
  local found = nil
  for _, one in ipairs(redis.call('ZRANGE', base .. 'orders:' .. identity.name, 0, -1)) do
    local state = order_state(base, one, now_ms)
    -- An attempt beside the orders cost nothing: this request retries it. An attempt before them was given up.
    if state == 'free' and found then
      redis.call('ZREM', base .. 'orders:' .. identity.name, one)
      return nil
    end
    if state == 'running' or state == 'ended' then
      local order = {id = one, state = state, joined = joined(one)}
      -- The one that fewest have joined, so that two retries do not share one.
      if not found or (order.joined or 0) < (found.joined or 0) then found = order end
    end
  end
  return found
end

-- Returns the sum of a hash of counts by time slice over `kept_s`, and the second at which the oldest leaves it.
local function sum_slices(name, slice_s, kept_s, now_s)
  local sum, frees_at_s, slices = 0, math.huge, redis.call('HGETALL', name)
  for i = 1, #slices, 2 do
    local ends_s = (tonumber(slices[i]) + 1) * slice_s + kept_s
    if ends_s > now_s then sum, frees_at_s = sum + slices[i + 1], math.min(ends_s, frees_at_s) end
  end
  return sum, frees_at_s < math.huge and frees_at_s or 0
end

-- Records the order of an admitted request.
local function remember_order(base, identity, id, now_ms)
  local reservation = base .. 'reservation:' .. id
  if identity.kind ~= 'plain' then redis.call('HSET', reservation, 'owner', identity.channel) end
  if identity.kind == 'keyed' or identity.kind == 'line' then
    local name = base .. 'idempotency:' .. identity.name
    redis.call('HSET', name, 'fingerprint', identity.fingerprint, 'order', id)
    local kept_ms = identity.kind == 'line' and LINE_KEPT_MS or identity.keyed_ms
    redis.call('PEXPIRE', name, kept_ms)
    redis.call('HSET', reservation, 'kept_s', math.ceil(kept_ms / 1000))
    if identity.kind == 'line' then return end
    redis.call('HSET', reservation, 'idempotency', identity.name)
    local keys, slice = base .. 'idempotency_keys', math.floor(now_ms / (identity.keyed_ms / 24))
    for _, old in ipairs(redis.call('HKEYS', keys)) do
      if math.abs(tonumber(old) - slice) > 25 then redis.call('HDEL', keys, old) end
    end
    redis.call('HINCRBY', keys, slice, 1)
    redis.call('PEXPIRE', keys, identity.keyed_ms * 2)
    return
  end
  if identity.unknown_ms > 0 then
    redis.call('HSET', reservation, 'identity', identity.name, 'unknown_ms', identity.unknown_ms)
  end
  if identity.kind == 'plain' then return end
  local orders = base .. 'orders:' .. identity.name
  redis.call('ZADD', orders, now_ms, id)
  redis.call('ZREMRANGEBYRANK', orders, 0, -ORDERS_MAX - 1)
  redis.call('PEXPIRE', orders, ORDERS_KEPT_MS)
end

-- Records a refused attempt beside the orders of the same request: its retry is an order, and joins none of them.
local function remember_refusal(base, identity, id, now_ms)
  local orders = base .. 'orders:' .. identity.name
  if (identity.kind == 'first' or identity.kind == 'retry') and redis.call('EXISTS', orders) == 1 then
    redis.call('ZADD', orders, now_ms, id)
    redis.call('ZREMRANGEBYRANK', orders, 0, -ORDERS_MAX - 1)
  end
end
