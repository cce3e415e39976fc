-- The queue: weighted fair queueing over tenants, in classes of what can be served alike. Shared, after leases.lua.
--
-- Waiting requests of one priority that need the same (images, model, what they avoid) form a class, whose name says
-- this. A script looks at classes and at the first tenants of each, never at all waiting requests. A flow (see
-- shares.lua) that comes back starts at the pool's virtual time, the pass of what was served last. `active` has the
-- passes of flows that wait, `idle` those of flows that do not, as long as they are ahead. A request that leaves pays
-- nothing. Batch flows get only what no interactive class can use.
--
--   classes   sorted set: class -> lowest pass in it, or less; see rank_of
--   class:CLASS   sorted set: flow -> its pass, or less
--   queue     sorted set: "CLASS|FLOW|MOMENT|ID", lexical      waiters    hash: id -> msgpack of a waiting request
--   waiting:PROCESS   set: ids of the waiting requests of a process
--   waits     hash: flow -> how many wait        queued    hash: class -> their cost in slots
local CLASSES_MAX = 64      -- that one script looks at first, and as many further ones in turn

-- A class by its name: "q|n|x|m" of q (i: interactive, b: batch), n = images, x = what it avoids, m = model with its
-- length, so that no name begins another.
local classes = setmetatable({}, {__index = function(all, name)
  local q, n, x, m = string.match(name, '^(.)|(%d+)|([^|]*)|%d+:(.*)$')
  local avoided, count = {}, 0
  for member in string.gmatch(x, '%S+') do avoided[member], count = true, count + 1 end
  all[name] = {name = name, q = q, n = tonumber(n), m = m, x = count > 0 and avoided or nil, avoided = count}
  return all[name]
end})

local function class_of(q, n, avoided, m)
  table.sort(avoided)
  return table.concat({q, n, table.concat(avoided, ' '), #m .. ':' .. m}, '|')
end

-- The place of a class in `classes`: batch classes come after all others.
local function rank_of(class, pass) return pass + (class.q == 'b' and 1e12 or 0) end

-- The names of a range with scores; the first `most` of them, if given.
local function names_of(page, most)
  local names = {}
  for i = 1, math.min(#page, 2 * (most or #page)), 2 do names[#names + 1] = page[i] end
  return names
end

local function line_of(waiter)
  return table.concat({waiter.k, waiter.f, string.format('%016.0f', waiter.at), waiter.id}, '|')
end

-- The ID of the first request of a flow in a class, and when it came.
local function first_of(class, flow)
  local from = class .. '|' .. flow
  local found = redis.call('ZRANGEBYLEX', K.queue, '[' .. from .. '|', '(' .. from .. '}', 'LIMIT', 0, 1)
  if not found[1] then return nil end
  local at, id = string.match(found[1], '([^|]*)|([^|]*)$')
  return id, at
end

local function waiter_of(id)
  local kept = redis.call('HGET', K.waiters, id)
  local waiter = kept and cmsgpack.unpack(kept)
  if waiter then waiter.id = id end
  return waiter
end

local function note_waiting(waiter, more)
  local name = 'waiting_' .. string.sub(waiter.f, 1, 1)
  set_meta(name, math.max(0, setting(name) + more))
  redis.call('HINCRBYFLOAT', touch('queued'), waiter.k, more * waiter.c)
end

-- `waiter`: id, k = its class, f = q .. ":" .. tenant, w = weight, at = when it first asked, d = until when it waits, p
-- = channel of its process, c = cost, r = repeats.
local function join(waiter)
  local flow = waiter.f
  redis.call('ZADD', touch('queue'), 0, line_of(waiter))
  redis.call('HSET', touch('waiters'), waiter.id, cmsgpack.pack(waiter))
  redis.call('SADD', touch('waiting:' .. waiter.p), waiter.id)
  local pass, waits = pass_of(flow), redis.call('HINCRBY', touch('waits'), flow, 1)
  if waits == 1 then
    redis.call('ZADD', touch('active'), pass, flow)
    redis.call('ZREM', K.idle, flow)
    if not is_batch(flow) then
      redis.call('HSET', touch('weights'), flow, waiter.w)
      add_meta('weight', waiter.w)
    end
  end
  note_flow(flow, waiter.w, 0, waits)
  redis.call('ZADD', touch('class:' .. waiter.k), pass, flow)
  local first = tonumber(redis.call('ZSCORE', K.classes, waiter.k) or math.huge)
  redis.call('ZADD', touch('classes'), math.min(first, rank_of(classes[waiter.k], pass)), waiter.k)
  note_waiting(waiter, 1)
end

-- Leaves the queue; `pass` is the flow's new pass, if it has another. A flow without waiting requests keeps its pass as
-- long as that is ahead.
local function leave(waiter, pass)
  local flow, class = waiter.f, K['class:' .. waiter.k]
  redis.call('ZREM', K.queue, line_of(waiter))
  redis.call('HDEL', K.waiters, waiter.id)
  redis.call('SREM', K['waiting:' .. waiter.p], waiter.id)
  note_waiting(waiter, -1)
  if not first_of(waiter.k, flow) then redis.call('ZREM', class, flow) end
  if redis.call('EXISTS', class) == 0 then
    redis.call('HDEL', K.queued, waiter.k)
    redis.call('ZREM', K.classes, waiter.k)
  end
  if redis.call('HINCRBY', K.waits, flow, -1) > 0 then
    if pass then redis.call('ZADD', K.active, pass, flow) end
    return
  end
  redis.call('HDEL', K.waits, flow)
  pass = pass or pass_of(flow)
  redis.call('ZREM', K.active, flow)
  if pass > setting('virtual') then redis.call('ZADD', touch('idle'), pass, flow) end
  local weight = tonumber(redis.call('HGET', K.weights, flow) or 0)
  redis.call('HDEL', K.weights, flow)
  set_meta('weight', redis.call('HLEN', K.weights) == 0 and 0 or setting('weight') - weight)
end
