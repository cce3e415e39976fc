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
--   class     hash: number -> msgpack: q, n, m, x, text        class:NUMBER   sorted set: flow -> its pass, or less
--   line      sorted set: "CLASS|FLOW|MOMENT|ID", lexical      places    hash: id -> msgpack of a waiting request
--   waiting:PROCESS   set: ids of what waits for a process
--   waits     hash: flow -> how many wait        queued    hash: class -> their cost in slots
local BATCH_AFTER = 1e12    -- added to a batch class's pass in `classes`
local GRANT = 10 * 1000000  -- a granted lease waits for its process to take it for this long
local GRANTS_MAX = 4        -- in one script
local CLASSES_MAX = 64      -- that one script looks at first, and as many further ones in turn
local TENANTS_MAX = 16      -- of one class that are looked at for one below its share

-- Joining and leaving ---------------------------------------------------------------------------------------------------

local function spot(place)
  return place.k .. '|' .. place.f .. '|' .. string.format('%016.0f', place.at) .. '|' .. place.id
end

local function first_of(class, flow)
  local found = redis.call('ZRANGEBYLEX', K.line, '[' .. class .. '|' .. flow .. '|', '(' .. class .. '|' .. flow .. '}', 'LIMIT', 0, 1)
  return found[1] and string.match(found[1], '[^|]*$')
end

local function place_of(id)
  local kept = redis.call('HGET', K.places, id)
  return kept and cmsgpack.unpack(kept)
end

local function set_of(list)
  local found = {}
  for _, name in ipairs(list) do found[name] = true end
  return found
end

local function class_for(place)
  table.sort(place.x)
  local text = cjson.encode({place.q, place.n, place.m, table.concat(place.x, ' ')})
  local number = redis.call('HGET', K.classids, text)
  if number then return number end
  add_meta('classes_made', 1)
  number = string.format('%.0f', setting('classes_made'))
  redis.call('HSET', touch('classids'), text, number)
  redis.call('HSET', touch('class'), number, cmsgpack.pack({q = place.q, n = place.n, m = place.m, x = place.x, text = text}))
  return number
end

local function waiting(q) return setting('waiting_' .. q) end

local function note_waiting(place, more)
  set_meta('waiting_' .. place.q, math.max(0, waiting(place.q) + more))
  redis.call('HINCRBYFLOAT', touch('queued'), place.k, more * place.c)
end

-- `place`: id, q (i: interactive, b: batch), f = q .. ":" .. tenant, t = tenant, w = weight, at = when it first asked, d = until
-- when it waits, n = images, m = model, x = what it avoids, p = channel of its process, c = cost, r = repeats, k = class.
local function join(place)
  place.k = class_for(place)
  redis.call('ZADD', touch('line'), 0, spot(place))
  redis.call('HSET', touch('places'), place.id, cmsgpack.pack(place))
  redis.call('SADD', touch('waiting:' .. place.p), place.id)
  local pass = tonumber(redis.call('ZSCORE', K.active, place.f) or start_of(place.f))
  local waits = redis.call('HINCRBY', touch('waits'), place.f, 1)
  if waits == 1 then
    redis.call('ZADD', touch('active'), pass, place.f)
    redis.call('ZREM', K.idle, place.f)
    if place.q == 'i' then
      redis.call('HSET', touch('weights'), place.f, place.w)
      add_meta('weight', place.w)
    end
  end
  note_flow(place.f, place.w, 0, waits)
  redis.call('ZADD', touch('class:' .. place.k), pass, place.f)
  local first = tonumber(redis.call('ZSCORE', K.classes, place.k) or math.huge)
  redis.call('ZADD', touch('classes'), math.min(first, pass + (place.q == 'b' and BATCH_AFTER or 0)), place.k)
  note_waiting(place, 1)
end

local function drop_class(number)
  local kept = redis.call('HGET', K.class, number)
  if kept then redis.call('HDEL', K.classids, cmsgpack.unpack(kept).text) end
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
-- Dispatch ------------------------------------------------------------------------------------------------------------

-- The flow of a class with the lowest pass: flow, pass. Entries of flows that were served elsewhere are corrected.
local function head_of(number)
  local set = K['class:' .. number]
  for _ = 1, CLASSES_MAX do
    local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
    if not first[1] then return nil end
    local pass = tonumber(redis.call('ZSCORE', K.active, first[1]) or math.huge)
    if pass <= tonumber(first[2]) then return first[1], pass end
    if pass < math.huge then redis.call('ZADD', set, pass, first[1]) else redis.call('ZREM', set, first[1]) end
  end
  return nil
end

-- Classes with a lower bound of their lowest pass, in that order; of very many each is looked at in turn.
local function first_classes()
  local page = redis.call('ZRANGE', K.classes, 0, CLASSES_MAX - 1, 'WITHSCORES')
  local all = #page == 2 * CLASSES_MAX and redis.call('ZCARD', K.classes) or 0
  if all > CLASSES_MAX then
    local from = setting('classes_seen') % (all - CLASSES_MAX)
    set_meta('classes_seen', from + CLASSES_MAX)
    local more = redis.call('ZRANGE', K.classes, CLASSES_MAX + from, 2 * CLASSES_MAX + from - 1, 'WITHSCORES')
    for _, value in ipairs(more) do page[#page + 1] = value end
  end
  local numbers, found = {}, {}
  for i = 1, #page, 2 do numbers[#numbers + 1] = page[i] end
  local kept = #numbers > 0 and redis.call('HMGET', K.class, unpack(numbers)) or {}
  for i, number in ipairs(numbers) do
    local class = cmsgpack.unpack(kept[i])
    class.number, class.x, class.pass = number, #class.x > 0 and set_of(class.x) or nil, tonumber(page[2 * i])
    found[#found + 1] = class
  end
  return found
end

local function refresh(class)
  local flow, pass = head_of(class.number)
  pass = pass and pass + (class.q == 'b' and BATCH_AFTER or 0)
  if flow and pass ~= class.pass then redis.call('ZADD', K.classes, pass, class.number) end
  class.flow, class.pass, class.is_blocked = flow, pass, not flow
end

-- The first flow of a class holds its share of the lanes: the next one that may hold one more is first, if there is any.
local function step_aside(class)
  local page = redis.call('ZRANGE', K['class:' .. class.number], 1, TENANTS_MAX, 'WITHSCORES')
  local first, lowest, names = nil, math.huge, {}
  for i = 1, #page, 2 do names[#names + 1] = page[i] end
  read_flows(names)
  for i, flow in ipairs(names) do
    if tonumber(page[2 * i]) >= lowest then break end  -- a flow's pass is no lower than its place says
    if may_hold(flow, class) then
      local pass = tonumber(redis.call('ZSCORE', K.active, flow) or math.huge)
      if pass < lowest then first, lowest = flow, pass end
    end
  end
  class.flow, class.pass, class.is_blocked = first, lowest + (class.q == 'b' and BATCH_AFTER or 0), not first
end

-- The request of a class that can be served: flow, what serves it (see choose), is_over. The first flow may yet hold its lanes.
local function servable(class, reserved)
  local first_is_over = is_over(class.flow)
  local found = choose(class, first_is_over, reserved)
  if found or not first_is_over or class.q == 'b' then return class.flow, found, first_is_over end
  if not may_fit(class, 'early') then return nil end
  for _, flow in ipairs(redis.call('ZRANGE', K['class:' .. class.number], 1, TENANTS_MAX)) do
    if not is_over(flow) and may_hold(flow, class) then return flow, choose(class, false, reserved), false end
  end
  return nil
end

local function grant(class, flow, found, is_paced)
  local place = place_of(first_of(class.number, flow) or '')
  if not place then
    redis.call('ZREM', K['class:' .. class.number], flow)
    return false
  end
  if not is_alive(place.p) then
    leave(place)
    return false
  end
  note_use(flow, place.c, place.w)
  leave(place, charge(tonumber(redis.call('ZSCORE', K.active, flow) or 0), place.c, place.w))
  local who = {id = place.id, t = place.t, q = place.q, w = place.w, c = place.c, n = place.n, r = place.r, g = true}
  take(found, who, now + GRANT, is_paced)
  redis.call('HSET', touch('grants'), place.id, place.p)
  redis.call('PUBLISH', place.p, place.id)
  return true
end

-- The class with the lowest pass that is not blocked; nil if no such class may be served.
local function lowest_of(classes)
  local first, fits = nil, false
  for _, class in ipairs(classes) do
    if not class.is_blocked then
      if not first or class.pass < first.pass then first = class end
      fits = fits or may_fit(class)
    end
  end
  return fits and first or nil
end

-- Give what is free to what waits, the lowest pass first. A class whose first request waits for room for its many images
-- reserves the account that has most of it. Returns whether there may be more to give.
local function dispatch()
  is_freed = false
  local left, granted, reserved = gate(), 0, {}
  local classes = left > 0 and first_classes() or {}
  for _ = 1, 4 * CLASSES_MAX do
    local class = left > 0 and lowest_of(classes)
    if not class then return false end
    if class.seen ~= granted then
      class.seen = granted
      refresh(class)  -- it may not be the first any more
    else
      local flow, found, is_paced = nil, nil, nil
      local fits = may_fit(class)
      if fits then flow, found, is_paced = servable(class, reserved) end
      if found and flow == class.flow and not may_hold(flow, class) then
        step_aside(class)
      elseif found then
        if grant(class, flow, found, is_paced) then granted, left = granted + 1, left - 1 end
        refresh(class)
        class.seen = granted
      else
        class.is_blocked = true
        local short = not fits and roomiest(class, reserved)
        if short then reserved[short] = class.n end
      end
    end
    if granted == GRANTS_MAX then return true end
  end
  return true
end

-- Dispatch where something got free that a waiting request could use. If there is more, the keeper asks at once.
local function dispatch_freed()
  if not is_freed or redis.call('EXISTS', K.classes) == 0 then return end
  if dispatch() and meta.keeper then redis.call('PUBLISH', meta.keeper, '') end
end
