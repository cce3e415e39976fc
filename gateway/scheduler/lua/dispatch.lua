-- Dispatch: what is free is given to what waits, the flow with the lowest pass first. Shared, after line.lua.
local TENANTS_MAX = 16      -- of one class that are looked at for one below its share

local flows_left = 1024     -- entries of classes that one script reads to find their lowest passes
local is_cut = false        -- whether a class has stale entries that it did not read

-- Correct the entries of a class that stand before its lowest pass, among its first ones: flows that were served elsewhere
-- have moved on. Returns the flow and its pass; nil if that is to be asked again; and whether there is any.
local function correct(set, size)
  local page, names, late, gone = redis.call('ZRANGE', set, 0, size - 1, 'WITHSCORES'), {}, {}, {}
  if not page[1] then return nil, nil, false end
  flows_left = flows_left - #page / 2
  for i = 1, #page, 2 do names[#names + 1] = page[i] end
  local passes = redis.call('ZMSCORE', K.active, unpack(names))
  local first, lowest, is_sure = nil, math.huge, false
  for i, flow in ipairs(names) do
    local pass, noted = passes[i] and tonumber(passes[i]), tonumber(page[2 * i])
    if noted >= lowest then
      is_sure = is_sure or noted > lowest and first
      break
    elseif not pass then
      gone[#gone + 1] = flow
    elseif pass <= noted then
      first, lowest, is_sure = flow, pass, true
    else
      late[#late + 1] = passes[i]
      late[#late + 1] = flow
      if pass <= lowest then first, lowest = pass < lowest and flow or nil, pass end  -- of equal ones Redis says which is first
    end
  end
  if #late > 0 then redis.call('ZADD', set, unpack(late)) end
  if #gone > 0 then redis.call('ZREM', set, unpack(gone)) end
  return is_sure and first or nil, lowest, true
end

-- The flow of a class with the lowest pass: flow, pass. If too many entries are stale, later scripts find it.
local function head_of(number)
  for _, size in ipairs({1, 8, 64, 64, 64}) do
    if flows_left <= 0 then break end
    local first, pass, is_any = correct(K['class:' .. number], math.min(size, flows_left))
    if first then return first, pass end
    if not is_any then return nil end
  end
  is_cut = true
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
  read_classes(numbers)
  for i, number in ipairs(numbers) do
    local class = classes[number]
    class.number, class.pass, class.is_blocked, class.seen, class.rank = number, tonumber(page[2 * i]), nil, nil, i
    found[i] = class
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
  local names = redis.call('ZRANGE', K['class:' .. class.number], 1, TENANTS_MAX)
  read_over(names)
  for _, flow in ipairs(names) do
    if not over[flow] and may_hold(flow, class) then return flow, choose(class, false, reserved), false end
  end
  return nil
end

local function grant(class, flow, found, is_paced)
  local GRANT = 10 * 1000000  -- a granted lease waits for its process to take it for this long
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
  local who = {id = place.id, t = string.sub(flow, 3), q = class.q, w = place.w, c = place.c, n = class.n, r = place.r, g = true}
  take(found, who, now + GRANT, is_paced)
  redis.call('HSET', touch('grants'), place.id, place.p)
  redis.call('PUBLISH', place.p, place.id)
  return true
end

local function comes_before(one, other)
  return one.pass < other.pass or (one.pass == other.pass and one.rank < other.rank)
end

-- The class with the lowest pass that is not blocked, of classes in the order of their passes, the first of which may have
-- moved on; nil if no such class may be served.
local function lowest_of(those)
  local first = those[1]
  while first and first.is_blocked do
    table.remove(those, 1)
    first = those[1]
  end
  local at = 1
  while those[at + 1] and comes_before(those[at + 1], first) do
    those[at] = those[at + 1]
    at = at + 1
  end
  those[at] = first
  if those.fitting and not those.fitting.is_blocked and may_fit_any(those.fitting) then return those[1] end
  for _, class in ipairs(those) do
    if not class.is_blocked and may_fit_any(class) then
      those.fitting = class
      return those[1]
    end
  end
  return nil
end

-- Give what is free to what waits, the lowest pass first. A class whose first request waits for room for its many images
-- reserves the account that has most of it. Returns whether there may be more to give.
local function dispatch()
  local GRANTS_MAX = 4  -- in one script
  is_freed = false
  local left, granted, reserved = gate(), 0, {}
  local those = left > 0 and first_classes() or {}
  for _ = 1, 4 * CLASSES_MAX do
    local class = left > 0 and lowest_of(those)
    if not class then return is_cut end
    if class.seen ~= granted then
      class.seen = granted
      refresh(class)  -- it may not be the first any more
    else
      local flow, found, is_paced = nil, nil, nil
      local fits = may_fit_any(class)
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
