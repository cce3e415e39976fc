-- Dispatch: what is free is given to what waits, the flow with the lowest pass first. Shared, after queue.lua.
local flows_left = 1024     -- entries of classes that one script reads to find their lowest passes
local is_cut = false        -- whether a class has stale entries that it did not read

-- The flow of a class with the lowest pass: flow, pass. Flows that were served elsewhere have moved on: the first
-- entries are corrected until the first of all is right. If too many are stale, later scripts find it.
local function head_of(class)
  local set = K['class:' .. class]
  for _, size in ipairs({8, 64, 64, 64}) do
    if flows_left <= 0 then break end
    size = math.min(size, flows_left)
    local page = redis.call('ZRANGE', set, 0, size - 1, 'WITHSCORES')
    if not page[1] then return nil end
    local names, late, gone, first, lowest = names_of(page), {}, {}, nil, math.huge
    flows_left = flows_left - #names
    local passes = redis.call('ZMSCORE', K.active, unpack(names))
    for i, flow in ipairs(names) do
      local pass = passes[i] and tonumber(passes[i])
      if not pass then
        gone[#gone + 1] = flow
      elseif passes[i] ~= page[2 * i] then
        late[#late + 1] = passes[i]
        late[#late + 1] = flow
      end
      if pass and (pass < lowest or (pass == lowest and flow < first)) then first, lowest = flow, pass end
    end
    if #late > 0 then redis.call('ZADD', set, unpack(late)) end
    if #gone > 0 then redis.call('ZREM', set, unpack(gone)) end
    if first and (#names < size or lowest <= tonumber(page[#page])) then return first, lowest end
  end
  is_cut = true
  return nil
end

-- Classes with a lower bound of their lowest pass, in that order; of very many each is looked at in turn.
local function first_classes()
  local page, found = redis.call('ZRANGE', K.classes, 0, CLASSES_MAX - 1, 'WITHSCORES'), {}
  local further = #page == 2 * CLASSES_MAX and redis.call('ZCARD', K.classes) - CLASSES_MAX or 0
  if further > 0 then
    local from = CLASSES_MAX + setting('classes_seen') % further
    set_meta('classes_seen', from)
    local more = redis.call('ZRANGE', K.classes, from, from + CLASSES_MAX - 1, 'WITHSCORES')
    for _, value in ipairs(more) do page[#page + 1] = value end
  end
  for i, name in ipairs(names_of(page)) do
    local class = classes[name]
    class.pass, class.is_blocked, class.is_read, class.at = tonumber(page[2 * i]), nil, nil, nil
    found[i] = class
  end
  return found
end

local function set_head(class, flow, pass)
  class.flow, class.is_blocked, class.is_read, class.at = flow, not flow, true, nil
  class.pass = pass and rank_of(class, pass)
end

local function refresh(class)
  local before = class.pass
  set_head(class, head_of(class.name))
  if class.flow and class.pass ~= before then redis.call('ZADD', K.classes, class.pass, class.name) end
end

-- When the first request of a class came; before all others if it is not known yet.
local function arrival_of(class)
  class.at = class.at or class.is_read and select(2, first_of(class.name, class.flow)) or ''
  return class.at
end

-- Reads the first flows of these classes at once. One that has moved on is not read yet: see refresh.
local function read_heads(those)
  local firsts, names, changed = {}, {}, {}
  for i, class in ipairs(those) do
    firsts[i] = redis.call('ZRANGE', K['class:' .. class.name], 0, 0, 'WITHSCORES')
    names[i] = firsts[i][1] or ''
  end
  flows_left = flows_left - #names
  read_flows(names)
  read_over(names)
  local passes = redis.call('ZMSCORE', K.active, unpack(names))
  for i, class in ipairs(those) do
    local pass, before = tonumber(passes[i] or math.huge), class.pass
    if pass <= tonumber(firsts[i][2] or 0) then
      set_head(class, names[i], pass)
      if class.pass ~= before then
        changed[#changed + 1] = class.pass
        changed[#changed + 1] = class.name
      end
    end
  end
  if #changed > 0 then redis.call('ZADD', K.classes, unpack(changed)) end
end

-- The first flow of a class has its share in flight: the next one that may begin a call is first, if there is any.
local function step_aside(class)
  local TENANTS_MAX = 16
  local page = redis.call('ZRANGE', K['class:' .. class.name], 1, TENANTS_MAX, 'WITHSCORES')
  local first, lowest, names = nil, math.huge, names_of(page)
  read_flows(names)
  for i, flow in ipairs(names) do
    if tonumber(page[2 * i]) >= lowest then break end  -- a flow's pass is no lower than its entry says
    local pass = may_begin(flow, class) and tonumber(redis.call('ZSCORE', K.active, flow) or math.huge)
    if pass and pass < lowest then first, lowest = flow, pass end
  end
  set_head(class, first, lowest)
end

-- The request of a class that can be served: flow, what serves it (see choose), is_over. The first flow may yet have
-- its share in flight.
local function servable(class, reserved)
  local first_is_over = is_over(class.flow)
  local found = choose(class, first_is_over, reserved)
  if found or not first_is_over or class.q == 'b' then return class.flow, found, first_is_over end
  local others = may_fit(class, 'early') and flows_below() or {}
  local passes = others[1] and redis.call('ZMSCORE', K['class:' .. class.name], unpack(others))
  for i, flow in ipairs(others) do
    if passes[i] and not is_over(flow) and may_begin(flow, class) then
      return flow, choose(class, false, reserved), false
    end
  end
  return nil
end

local function grant(class, flow, found, is_paced)
  local GRANT = 10 * 1000000  -- a granted lease waits for its process to claim it for this long
  local waiter = waiter_of(first_of(class.name, flow) or '')
  if not waiter then
    redis.call('ZREM', K['class:' .. class.name], flow)
    return false
  end
  local alive_until = redis.call('ZSCORE', K.processes, waiter.p)
  if not in_grace() and not (alive_until and tonumber(alive_until) > now) then
    leave(waiter)
    return false
  end
  leave(waiter, pay(flow, waiter.c, waiter.w))
  waiter.t, waiter.q, waiter.n, waiter.g = string.sub(flow, 3), class.q, class.n, true
  take(found, waiter, now + GRANT, is_paced)
  redis.call('HSET', touch('grants'), waiter.id, waiter.p)
  redis.call('PUBLISH', waiter.p, waiter.id)
  return true
end

-- The account that has the most capacity for a class of several images, which waits only for capacity, and the images to
-- reserve there: for a batch also those that it must leave.
local function roomiest(class, reserved)
  for _, kind in ipairs({'due', 'early'}) do
    for _, group in ipairs(class.n > 1 and able_groups(class) or {}) do
      for _, name in ipairs(names_of(front(kind, group))) do
        local a = not reserved[name] and accounts[name]
        if a and class.n <= a.record.images_per_minute and key_of(a, class) then
          local kept_images = class.q == 'b' and select(2, kept_of(a)) or 0
          return name, math.min(class.n + kept_images, a.record.images_per_minute)
        end
      end
    end
  end
  return nil
end

-- Whether an account may have room for a class that some flow may take: those over their shares wait for their pace.
local function may_serve(class)
  if may_fit(class, 'due') then return true end
  return may_fit(class, 'early') and (flows_below()[1] ~= nil or not flows_below().is_complete)
end

-- Whether one of these classes may be served.
local function may_serve_any(those)
  local fitting = those.fitting
  if fitting and not fitting.is_blocked and may_serve(fitting) then return true end
  for _, class in ipairs(those) do
    if not class.is_blocked and may_serve(class) then
      those.fitting = class
      return true
    end
  end
  return false
end

-- The class with the lowest pass that is not blocked, of equal ones the one that has waited longest. Nil if none can be
-- served.
local function lowest_of(those)
  if not may_serve_any(those) then return nil end
  local first = nil
  for _, other in ipairs(those) do
    if not other.is_blocked then
      local is_first = not first or other.pass < first.pass
      if first and other.pass == first.pass then
        is_first = (other.at or arrival_of(other)) < (first.at or arrival_of(first))
      end
      if is_first then first = other end
    end
  end
  return first
end

-- Gives what is free to what waits, the lowest pass first. A class whose first request waits for capacity for its many
-- images reserves the account that has most of it. Returns whether there may be more to give.
local function dispatch()
  local GRANTS_MAX = 2  -- in one script
  is_freed = false
  local left, granted, reserved = gate(), 0, {}
  local those = left > 0 and may_serve({n = 1}) and first_classes() or {}
  for _ = 1, 4 * CLASSES_MAX do
    local class = left > 0 and lowest_of(those)
    if not class then return is_cut end
    if not those.are_read then
      those.are_read = true
      read_heads(those)
    elseif not class.is_read then
      refresh(class)
    else
      local flow, found, is_paced
      local fits = may_fit_any(class)
      if fits then flow, found, is_paced = servable(class, reserved) end
      if found and flow == class.flow and not may_begin(flow, class) then
        step_aside(class)
      elseif found then
        if grant(class, flow, found, is_paced) then granted, left = granted + 1, left - 1 end
        for _, other in ipairs(those) do
          if other.flow == flow then other.is_read, other.at = false, nil end
        end
      else
        class.is_blocked = true
        local roomy, images = nil, nil
        if not fits or class.q == 'b' then roomy, images = roomiest(class, reserved) end
        if roomy then reserved[roomy] = images end
      end
    end
    if granted == GRANTS_MAX then return true end
  end
  return true
end

-- Dispatches where something got free that a waiting request could use. If there is more, the keeper asks at once.
local function dispatch_freed()
  if not is_freed or redis.call('EXISTS', K.classes) == 0 then return end
  if dispatch() and meta.keeper then redis.call('PUBLISH', meta.keeper, '') end
end
