-- Rests: what is out of use, why and until when. Shared, after prelude.lua.
--
-- A rest, cmsgpack in `health` under "*" (the upstream), ACCOUNT, ACCOUNT/KEY or ACCOUNT/KEY|MODEL:
--   state, error_code, since_us, until_us, seconds, busy; probe: the lease that tries it, since probe_us; by: the tenants whose calls
--   alone are the reason, as their requests may have provoked the error_code; firm_us: until when it lasts for all, whatever `by`;
--   lifted: another tenant's request ended it, so that all may use it until a call fails there again;
--   ill: the circuit breaker's; met: the tenants whose calls failed there, some; resumes: until when it lasts if the call that
--   tries it before its time fails
-- `accused`: field -> msgpack {n = error_codes met there since it last worked, by = the tenants whose calls met them, some}
-- `blamed`: fields with a rest that has `by`; `blamed:MODEL`: those of one model
-- `ailing`: tenant -> failures of the upstream that its calls met since one of them succeeded
-- TRANSITIONS says which event leads from which state to which; a rest's end only moves outward, except by a check or a
-- person.

local rests = {}  -- those that were read

local function read_rests(fields) read_fields(rests, 'health', fields, cmsgpack.unpack) end

local function rest_at(field)
  if rests[field] == nil then read_rests({field}) end
  return rests[field] or nil
end

local function all_rests()
  local found, fields = {}, redis.call('HKEYS', K.health)
  read_rests(fields)
  for _, field in ipairs(fields) do found[field] = rests[field] end
  return found
end

local function state_of(rest)
  if not rest then return 'ready' end
  return rest.until_us <= now and TRANSITIONS[rest.state].elapse or rest.state
end

local function is_out(rest)
  local state = state_of(rest)
  return state == 'cooling' or state == 'quarantined'
end

local function denied_models() return meta.denied and cmsgpack.unpack(meta.denied) or {} end

local function keep_rest(field, rest)
  redis.call('HSET', touch('health'), field, cmsgpack.pack(rest))
  rests[field] = rest
  local model = string.match(field, '|(.+)$')
  if not model then return end
  local denied = denied_models()
  for _, name in ipairs(denied) do
    if name == model then return end
  end
  denied[#denied + 1] = model
  set_meta('denied', cmsgpack.pack(denied))
end

local function drop_rest(field)
  redis.call('HDEL', K.health, field)
  rests[field] = false
end

-- Emit the event that a cooldown is over, once.
local function announce(field, rest)
  if rest and not rest.told and state_of(rest) == 'half_open' then
    rest.told = true
    keep_rest(field, rest)
    tell(field, 'half_open', rest.error_code)
  end
end

-- Until when a rest lasts for all tenants, once an error code ends at until_us: `by` few tenants' calls do not lengthen that.
local function firm_end(rest, until_us, by)
  local before = is_out(rest) and (not rest.by and rest.until_us or rest.firm_us) or 0
  return by and before or math.max(before, until_us)
end

-- An event of a rest, by the table of states. `error_code` describes a new rest: error_code, seconds, seconds_max (the same error_code
-- again, with no success between, doubles up to this), busy, by, ill.
local function move(field, event, error_code)
  local rest = rest_at(field)
  local before = state_of(rest)
  local after = TRANSITIONS[before][event]
  if after == 'ready' then
    if before == 'ready' then return end
    drop_rest(field)
    if field == '*' then
      set_meta('well_since', now)
      is_freed = true
    end
    tell(field, after, '')
  elseif after == 'half_open' then
    if before ~= after then rest.until_us, rest.told = now, nil end
    rest.probe = event ~= 'inconclusive' and rest.probe or nil
    keep_rest(field, rest)
    announce(field, rest)
  elseif error_code then
    local seconds = error_code.seconds
    if before == 'half_open' and rest.error_code == error_code.error_code then
      seconds = math.max(seconds, math.min(2 * rest.seconds, error_code.seconds_max or 0))
    end
    local until_us = now + seconds * 1000000
    local firm_us = firm_end(rest, until_us, error_code.by)
    if is_out(rest) and until_us <= rest.until_us then
      rest.by = rest.by and firm_us < rest.until_us and (error_code.by or rest.by) or nil
      rest.firm_us = rest.by and firm_us
      return keep_rest(field, rest)
    end
    local since = is_out(rest) and rest.state == after and rest.since_us or now
    keep_rest(field, {state = after, error_code = error_code.error_code, seconds = seconds, since_us = since, until_us = until_us,
      busy = error_code.busy, by = error_code.by, firm_us = error_code.by and firm_us, ill = error_code.ill, met = error_code.met})
    if since == now then tell(field, after, error_code.error_code) end
  end
end

-- Whether what has this rest may be used, and if not, from when on: 0 while a trial decides. A trial keeps other calls out
-- for 30 s: most take less, and a tenant can make its own slow.
local function opens(rest)
  local TRIAL_MAX = 30 * 1000000
  if not rest then return true, 0 end
  if is_out(rest) then return false, rest.until_us end
  if rest.lifted then return true, 0 end
  local is_tried = rest.probe and math.abs(now - rest.probe_us) < TRIAL_MAX and redis.call('ZSCORE', K.leases, rest.probe)
  return not is_tried, 0
end

-- A lease tries what has this rest.
local function try_rest(field, rest, lease_id)
  rest.probe, rest.probe_us = lease_id, now
  keep_rest(field, rest)
end

-- How many leases the upstream as a whole may have now, and if none, its rest.
local function gate()
  local rest = rest_at('*')
  if not rest then return math.huge end
  announce('*', rest)
  return opens(rest) and (rest.lifted and math.huge or 1) or 0, rest
end
