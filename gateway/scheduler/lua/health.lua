-- Cooldowns: what is out of rotation, why and until when. Shared, after prelude.lua and tenants/lua/streams.lua.
--
-- A cooldown, cmsgpack in `health` under "*" (the upstream), ACCOUNT, ACCOUNT/KEY or ACCOUNT/KEY|MODEL:
--   state, error_code, since_us, until_us, seconds, busy, announced: its end was emitted
--   probe: the lease that tries it, since probe_us
--   by: the tenants whose calls alone are the reason, as their requests may have provoked the error
--   firm_us: until when it lasts for all tenants, whatever `by`
--   lifted: another tenant's request ended it, so that all may use it until a call fails there again
--   ill: the circuit breaker's; met: some of the tenants whose calls failed there
--   resumes: until when it lasts if the call that tries it before its time fails
-- `accused`: field -> msgpack {n = errors met there since it last worked, by = some tenants whose calls met them}
-- `blamed`: fields with a cooldown that has `by`; `blamed:MODEL`: those of one model
-- `ailing`: tenant -> failures of the upstream that its calls met since one of them succeeded
-- TRANSITIONS says which event leads from which state to which. The end of a cooldown only moves later, except by a key
-- check or an operator.
local ACCUSERS_MAX = 8  -- tenants that meet an error before it is no prompt's for all others too

local cooldowns, read_cooldowns = cached('health', cmsgpack.unpack)

local function state_of(cooldown)
  if not cooldown then return 'ready' end
  return cooldown.until_us <= now and TRANSITIONS[cooldown.state].elapse or cooldown.state
end

local function is_out(cooldown)
  local state = state_of(cooldown)
  return state == 'cooling' or state == 'quarantined'
end

-- The models that some key had a cooldown of, as a list that is also a set: there is none of any other model.
local denied, denied_text = {}, nil
local function denied_models()
  if meta.denied ~= denied_text then
    denied, denied_text = cmsgpack.unpack(meta.denied), meta.denied
    for _, model in ipairs(denied) do denied[model] = true end
  end
  return denied
end

local function save_cooldown(field, cooldown)
  redis.call('HSET', touch('health'), field, cmsgpack.pack(cooldown))
  cooldowns[field] = cooldown
  local model = string.match(field, '|(.+)$')
  if not model or denied_models()[model] then return end
  local more = {model, unpack(denied_models())}
  set_meta('denied', cmsgpack.pack(more))
end

local function drop_cooldown(field)
  redis.call('HDEL', K.health, field)
  cooldowns[field] = false
end

-- Emits the event that a cooldown is over, once.
local function announce(field)
  local cooldown = cooldowns[field]
  if not cooldown or cooldown.announced or state_of(cooldown) ~= 'half_open' then return end
  cooldown.announced = true
  save_cooldown(field, cooldown)
  emit(field, 'half_open', cooldown.error_code)
end

-- Appends an event of the upstream; see events/outbox.py.
local function append_pool_event(kind, data)
  data.upstream = string.match(base, '{pool:(.+)}')
  append_event(touch('events'), kind, math.floor(now / 1000), cjson.encode(data))
end

-- Appends the event that an account is spent or a key is quarantined, once a day.
local function append_loss(field, after, error_code)
  local is_spent = error_code == 'insufficient_balance' or string.find(error_code, '^quota_exhausted_[pd]')
  local account, key = string.match(field, '^([^/|*]+)/?([^|]*)$')
  if not account or not (is_spent or after == 'quarantined') then return end
  local kind = is_spent and 'pool.account_spent' or 'pool.key_quarantined'
  if redis.call('HSETNX', touch('day'), field .. '|' .. kind, 1) == 0 then return end
  append_pool_event(kind, {account = account, key = key ~= '' and key or nil, error_code = error_code})
end

-- Starts, replaces or extends a cooldown in the state `after`; `new` as for move.
local function start_cooldown(field, after, new)
  local old, seconds = cooldowns[field], new.seconds
  if state_of(old) == 'half_open' and old.error_code == new.error_code then
    seconds = math.max(seconds, math.min(2 * old.seconds, new.seconds_max or 0))
  end
  local was_out, until_us = is_out(old), now + seconds * 1000000
  local firm_us = was_out and (not old.by and old.until_us or old.firm_us) or 0
  if not new.by then firm_us = math.max(firm_us, until_us) end  -- few tenants' calls do not lengthen it for all
  if was_out and until_us <= old.until_us then
    old.by = old.by and firm_us < old.until_us and (new.by or old.by) or nil
    old.firm_us = old.by and firm_us
    return save_cooldown(field, old)
  end
  local since_us = was_out and old.state == after and old.since_us or now
  save_cooldown(field, {state = after, error_code = new.error_code, seconds = seconds, since_us = since_us,
    until_us = until_us, busy = new.busy, by = new.by, firm_us = new.by and firm_us, ill = new.ill, met = new.met})
  if since_us == now then
    emit(field, after, new.error_code)
    append_loss(field, after, new.error_code)
  end
end

-- Applies an event, by the table of states. `new` describes a new cooldown: error_code, seconds, seconds_max (the same
-- error again, with no success between, doubles up to this), busy, by, ill, met.
local function move(field, event, new)
  local cooldown = cooldowns[field]
  local before = state_of(cooldown)
  local after = TRANSITIONS[before][event]
  if after == 'half_open' then
    if before ~= after then cooldown.until_us, cooldown.announced = now, nil end
    if event == 'inconclusive' then cooldown.probe = nil end
    save_cooldown(field, cooldown)
    announce(field)
  elseif after ~= 'ready' then
    if new then start_cooldown(field, after, new) end
  elseif before ~= 'ready' then
    drop_cooldown(field)
    if field == '*' then
      set_meta('well_since', now)
      is_freed = true
    end
    emit(field, after)
  end
end

-- Whether what has this cooldown may be used, and if not, from when on: 0 while a trial decides. A trial keeps other
-- calls out for 30 s: most take less, and a tenant can make its own slow.
local function opens(cooldown)
  local TRIAL_MAX = 30 * 1000000
  if not cooldown then return true, 0 end
  if is_out(cooldown) then return false, cooldown.until_us end
  if cooldown.lifted or not cooldown.probe or math.abs(now - cooldown.probe_us) >= TRIAL_MAX then return true, 0 end
  return not redis.call('ZSCORE', K.leases, cooldown.probe), 0
end

-- How many leases the upstream as a whole may have now, and if none, its cooldown.
local function gate()
  local cooldown = cooldowns['*']
  if not cooldown then return math.huge end
  announce('*')
  return opens(cooldown) and (cooldown.lifted and math.huge or 1) or 0, cooldown
end
