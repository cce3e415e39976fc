-- The queue: weighted fair queueing over tenants, in classes of what can be served alike. Shared, after leases.lua.
--
-- Waiting requests that need the same (images, model, what they avoid) and are of one priority form a class. A script looks at
-- classes and at the first tenants of each, never at all that wait.
-- Each flow, a tenant in one priority, has a pass (see shares.lua). Serving a request moves it on by cost / weight, as does
-- the time for which its calls hold concurrency; a flow that comes (back) starts at the pool's own virtual time, which is the
-- pass of what was served last. `active` has the passes of flows that wait, `idle` those of flows that do not, as long as they are ahead.
-- Nothing is paid by a request that leaves. Batch flows get only what no interactive class can use.
--
--   classids  hash: description -> number        classes   sorted set: number -> lowest pass in it, or less; see BATCH_AFTER
--   class     hash: number -> msgpack of a list: q, n, m, x, text        class:NUMBER   sorted set: flow -> its pass, or less
--   line      sorted set: "CLASS|FLOW|MOMENT|ID", lexical      places    hash: id -> msgpack of a waiting request
--   waiting:PROCESS   set: ids of what waits for a process
--   waits     hash: flow -> how many wait        queued    hash: class -> their cost in slots
local BATCH_AFTER = 1e12    -- added to a batch class's pass in `classes`
local CLASSES_MAX = 64      -- that one script looks at first, and as many further ones in turn

local function spot(place)
  return place.k .. '|' .. place.f .. '|' .. string.format('%016.0f', place.at) .. '|' .. place.id
end

local function first_of(class, flow)
  local found = redis.call('ZRANGEBYLEX', K.line, '[' .. class .. '|' .. flow .. '|', '(' .. class .. '|' .. flow .. '}', 'LIMIT', 0, 1)
  return found[1] and string.match(found[1], '[^|]*$')
end

local function place_of(id)
  local kept = redis.call('HGET', K.places, id)
  local place = kept and cmsgpack.unpack(kept)
  if place then place.id = id end
  return place
end

local function set_of(list)
  local found = {}
  for _, name in ipairs(list) do found[name] = true end
  return found
end

local function class_for(need)
  table.sort(need.x)
  local text = cjson.encode({need.q, need.n, need.m, table.concat(need.x, ' ')})
  local number = redis.call('HGET', K.classids, text)
  if number then return number end
  add_meta('classes_made', 1)
  number = string.format('%.0f', setting('classes_made'))
  redis.call('HSET', touch('classids'), text, number)
  redis.call('HSET', touch('class'), number, cmsgpack.pack({need.q, need.n, need.m, need.x, text}))
  return number
end

local classes = {}  -- those that were read

local function read_classes(numbers)
  read_fields(classes, 'class', numbers, function(kept)
    local q, n, m, x, text = unpack(cmsgpack.unpack(kept))
    return {q = q, n = n, m = m, x = #x > 0 and set_of(x) or nil, text = text, number = false, pass = false, rank = false,
      able = false, able_at = false, fits_at = false}  -- a table of its final size
  end)
end

local function waiting(q) return setting('waiting_' .. q) end

local function note_waiting(place, more)
  local q = string.sub(place.f, 1, 1)
  set_meta('waiting_' .. q, math.max(0, waiting(q) + more))
  redis.call('HINCRBYFLOAT', touch('queued'), place.k, more * place.c)
end

-- `need`: q (i: interactive, b: batch), n = images, m = model, x = what it avoids. `place`: id, f = q .. ":" .. tenant, w = weight,
-- at = when it first asked, d = until when it waits, p = channel of its process, c = cost, r = repeats; k = class.
local function join(need, place)
  place.k = class_for(need)
  redis.call('ZADD', touch('line'), 0, spot(place))
  redis.call('HSET', touch('places'), place.id, cmsgpack.pack(place))
  redis.call('SADD', touch('waiting:' .. place.p), place.id)
  local pass = tonumber(redis.call('ZSCORE', K.active, place.f) or start_of(place.f))
  local waits = redis.call('HINCRBY', touch('waits'), place.f, 1)
  if waits == 1 then
    redis.call('ZADD', touch('active'), pass, place.f)
    redis.call('ZREM', K.idle, place.f)
    if need.q == 'i' then
      redis.call('HSET', touch('weights'), place.f, place.w)
      add_meta('weight', place.w)
    end
  end
  note_flow(place.f, place.w, 0, waits)
  redis.call('ZADD', touch('class:' .. place.k), pass, place.f)
  local first = tonumber(redis.call('ZSCORE', K.classes, place.k) or math.huge)
  redis.call('ZADD', touch('classes'), math.min(first, pass + (need.q == 'b' and BATCH_AFTER or 0)), place.k)
  note_waiting(place, 1)
end

local function drop_class(number)
  read_classes({number})
  if classes[number] then redis.call('HDEL', K.classids, classes[number].text) end
  redis.call('HDEL', K.class, number)
  redis.call('HDEL', K.queued, number)
  redis.call('ZREM', K.classes, number)
end

-- The flow has nothing in the queue any more; it keeps its pass as long as that is ahead.
local function leave_flow(place, pass)
  redis.call('HDEL', K.waits, place.f)
  pass = pass or tonumber(redis.call('ZSCORE', K.active, place.f) or 0)
  redis.call('ZREM', K.active, place.f)
  if pass > setting('virtual') then redis.call('ZADD', touch('idle'), pass, place.f) end
  local weight = tonumber(redis.call('HGET', K.weights, place.f) or 0)
  redis.call('HDEL', K.weights, place.f)
  set_meta('weight', redis.call('HLEN', K.weights) == 0 and 0 or setting('weight') - weight)
end

-- Leave the queue; `pass` is the flow's new pass, if it has another.
local function leave(place, pass)
  redis.call('ZREM', K.line, spot(place))
  redis.call('HDEL', K.places, place.id)
  redis.call('SREM', K['waiting:' .. place.p], place.id)
  note_waiting(place, -1)
  if not first_of(place.k, place.f) then redis.call('ZREM', K['class:' .. place.k], place.f) end
  if redis.call('EXISTS', K['class:' .. place.k]) == 0 then drop_class(place.k) end
  if redis.call('HINCRBY', K.waits, place.f, -1) <= 0 then
    leave_flow(place, pass)
  elseif pass then
    redis.call('ZADD', K.active, pass, place.f)
  end
end

-- Processes without a heartbeat lose their places, some in each script, and what they were given and have not taken.
local function drop_dead()
  if in_grace() then return end
  local dead = redis.call('ZRANGEBYSCORE', K.processes, '-inf', now, 'LIMIT', 0, 1)[1]
  if not dead then return end
  local set = K['waiting:' .. dead]
  for _, id in ipairs(redis.call('SRANDMEMBER', set, BATCH)) do
    local place = place_of(id)
    if place then leave(place) else redis.call('SREM', set, id) end
  end
  local grants = redis.call('HGETALL', K.grants)
  for i = 1, #grants, 2 do
    local lease = grants[i + 1] == dead and lease_of(grants[i])
    local a = lease and give_back(grants[i], lease, true)
    if a then put_back(a) end
  end
  if redis.call('EXISTS', set) == 0 then redis.call('ZREM', K.processes, dead) end
end

local function is_alive(process)
  local until_us = redis.call('ZSCORE', K.processes, process)
  return in_grace() or (until_us and tonumber(until_us) > now)
end
