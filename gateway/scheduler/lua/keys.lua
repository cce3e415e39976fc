-- Keys: the key of an account that a need can use, and if none, when one can. Shared, after accounts.lua.
--
-- A need is {n = images of one call, m = model or nil for any, x = set to avoid: "ACCOUNT/" or "ACCOUNT/KEY"}.
local TRIAL = 5 * 1000000     -- assumed duration of a half-open trial

local helds = {}  -- what people hold back, of what was read

local function read_rests_of(fields)
  read_rests(fields)
  for _, field in ipairs(fields) do announce(field, rest_at(field)) end
end

-- An account's keys: held of the account; keys: {key, member, held}; the rests are read.
local function standing_of(a)
  if a.standing then return a.standing end
  local fields = {a.name}
  for _, key in ipairs(a.record.keys) do fields[#fields + 1] = a.name .. '/' .. key.name end
  read_fields(helds, 'held', fields)
  local found = {held = helds[a.name], keys = {}}
  for i, key in ipairs(a.record.keys) do
    found.keys[i] = {key = key, member = fields[i + 1], held = helds[fields[i + 1]]}
  end
  a.standing, a.models = found, {}
  read_rests_of(fields)
  return found
end

-- The fields of one model's rests, by key; they are read.
local function model_fields(a, model)
  local standing = standing_of(a)
  if not model then return {} end
  if not a.models[model] then
    local fields = {}
    for i, one in ipairs(standing.keys) do fields[i] = one.member .. '|' .. model end
    read_rests_of(fields)
    a.models[model] = fields
  end
  return a.models[model]
end

-- Read at once what `key_of` needs of these accounts.
local function read_keys(names, model)
  read_accounts(names)
  local fields, of_model = {}, {}
  for _, name in ipairs(names) do
    local a = accounts[name]
    if a and a.record and not (a.standing and (not model or a.models[model])) then
      fields[#fields + 1] = name
      for _, key in ipairs(a.record.keys) do
        fields[#fields + 1] = name .. '/' .. key.name
        if model then of_model[#of_model + 1] = name .. '/' .. key.name .. '|' .. model end
      end
    end
  end
  read_fields(helds, 'held', fields)
  for _, field in ipairs(of_model) do fields[#fields + 1] = field end
  read_rests(fields)
end

-- Returns the key for a need, with the cooldowns that its lease would probe: {field, rest}. Without one: nil and why:
-- {at, waits, state, busy, is_avoided, next_us: end of the first cooldown}. From `at` on one may be used (nil: none; 0: a
-- trial decides); it waits if only cooldowns and trials prevent it.
local function key_of(a, need)
  local standing, why = standing_of(a), {}
  if standing.held then return nil, why end
  local models, best, oldest, rest_of_all = model_fields(a, need.m), nil, math.huge, rest_at(a.name)
  for i, one in ipairs(standing.keys) do
    local at, waits, kept_by, trials = 0, true, nil, {}
    local function mind(field, rest)
      if not rest then return end
      local is_open, back = opens(rest)
      trials[#trials + 1] = {field, rest}
      if not is_open then
        waits = waits and state_of(rest) ~= 'quarantined'
        if not kept_by or back > at then at, kept_by = back, rest end
      end
    end
    mind(a.name, rest_of_all)
    mind(one.member, rest_at(one.member))
    if models[i] then mind(models[i], rest_at(models[i])) end
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
