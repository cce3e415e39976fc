-- Keys: the key of an account that a need can use, and if none, when one can. Shared, after accounts.lua.
--
-- A need is {n = images of one call, m = model or nil for any, x = set to avoid: "ACCOUNT/" or "ACCOUNT/KEY"}.
local TRIAL = 5 * 1000000     -- assumed duration of a half-open trial

-- State of an account's keys: held and rest of the account; keys: {key, member, held, rest}.
local function standing_of(a)
  if a.standing then return a.standing end
  local fields = {a.name}
  for _, key in ipairs(a.record.keys) do fields[#fields + 1] = a.name .. '/' .. key.name end
  local rests, holds = redis.call('HMGET', K.health, unpack(fields)), redis.call('HMGET', K.held, unpack(fields))
  local found = {held = holds[1], rest = read_rest(rests[1]), keys = {}}
  for i, key in ipairs(a.record.keys) do
    found.keys[i] = {key = key, member = fields[i + 1], held = holds[i + 1], rest = read_rest(rests[i + 1])}
  end
  a.standing, a.models = found, {}
  announce(a.name, found.rest)
  for _, one in ipairs(found.keys) do announce(one.member, one.rest) end
  a.standing, a.models = found, {}  -- a state change clears them
  return found
end

-- Cooldowns of one model, by key.
local function model_rests(a, model)
  local standing = standing_of(a)
  if not model then return {} end
  if a.models[model] then return a.models[model] end
  local fields, found = {}, {}
  for i, one in ipairs(standing.keys) do fields[i] = one.member .. '|' .. model end
  if #fields > 0 then
    local kept = redis.call('HMGET', K.health, unpack(fields))
    for i, field in ipairs(fields) do
      found[i] = read_rest(kept[i])
      announce(field, found[i])
    end
  end
  a.standing, a.models = standing, a.models or {}
  a.models[model] = found
  return found
end

-- Returns the key for a need, with the cooldowns that its lease would probe: {field, rest}. Without one: nil and why:
-- {at, waits, state, busy, is_avoided, next_us: end of the first cooldown}. From `at` on one may be used (nil: none; 0: a
-- trial decides); it waits if only cooldowns and trials prevent it.
local function key_of(a, need)
  local standing, why = standing_of(a), {}
  if standing.held then return nil, why end
  local models, best, oldest = model_rests(a, need.m), nil, math.huge
  for i, one in ipairs(standing.keys) do
    local at, waits, kept_by, trials = 0, true, nil, {}
    for _, pair in ipairs({{a.name, standing.rest}, {one.member, one.rest}, {one.member .. '|' .. (need.m or ''), models[i] or false}}) do
      local rest = pair[2]
      if rest then
        local is_open, back = opens(rest)
        trials[#trials + 1] = pair
        if not is_open then
          waits = waits and state_of(rest) ~= 'quarantined'
          if not kept_by or back > at then at, kept_by = back, rest end
        end
      end
    end
    local used = a.load.last[one.key.name] or 0
    if one.held then
      kept_by = nil
    elseif need.x and (need.x[one.member] or need.x[a.name .. '/']) then
      why.is_avoided = true
    elseif kept_by then
      if at > now and at < (why.next_us or math.huge) then why.next_us = at end
      if not why.at or (waits and not why.waits) or (waits == why.waits and at < why.at) then
        why.at, why.waits, why.state, why.busy = at, waits, state_of(kept_by), kept_by.busy
      end
    elseif used < oldest then
      best, oldest = {one.key, trials}, used
    end
  end
  if best then return best[1], best[2] end
  return nil, why
end
