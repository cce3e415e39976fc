-- The one rule: which account can serve a need, and when. Lease, dispatch, forecast, wake-up and readiness ask it.
-- Shared, after accounts.lua.
--
-- An account is of one kind, by which it stands in the index, so that no script looks at all accounts:
--   ready    it has room for one image and a usable key. Score: held back by its pace or not, the images it lacks, how
--            full, when used
--   full     it has a usable key, and room later. Score: when
--   resting  its keys cool down, or a trial decides. Score: when they may be used
--   out      its keys are quarantined. Score: when they may be tried
--   none     an operator took it out, or it has no key
-- The index has a sorted set a kind and group, KIND:GROUP; accounts of one group can serve the same needs. `groups` has
-- their numbers by signature: the images that a minute allows (to SHELVES), and the models that all their keys deny.
local TRIAL = 5 * 1000000     -- assumed duration of a half-open trial
local SHELVES = 16            -- numbers of free images that the index distinguishes
local SHELF = 1000000
local FRONT = 32              -- accounts of one kind and group that a script looks at
local BATCH_TRIES = 8         -- of them those that it tries for a batch: the first may be the one that waits for its pace
local ROWS = SHELVES + 1      -- of the index: the images that an account lacks to SHELVES

-- When an account can serve a need: a moment, `now` with key and the fields of its cooldowns; or nil, with what keeps
-- it (see key_of). `is_over`: the tenant has had its share, and takes only what the even pace lets through. A need of a
-- batch (q = 'b') leaves what is kept for interactive requests.
local function serve_at(a, need, is_over)
  if not a.record or need.n > a.record.images_per_minute then return nil, {} end
  local key, more = key_of(a, need)
  if not key then
    if more.waits then return math.max(now, more.at), nil, more end
    return nil, more
  end
  local at = room_at(a, need.n, need.q == 'b')
  if is_over then at = math.max(at, (pace_of(a, need.q == 'b'))) end
  return at, key, more
end

local groups, moves = nil, 0  -- moves: how often an account's place in the index has changed
local fronts = {due = {}, early = {}, full = {}, resting = {}, out = {}}

local function shelf_at(score) return SHELVES - math.floor(score / SHELF) % ROWS end

-- The first accounts of a kind and group, each with its score: `due` those that their pace lets go, `early` the others.
-- `shelf` is that of the first one, which has most room.
local function front(kind, group)
  local found = fronts[kind][group]
  if not found then
    local is_ready = kind == 'due' or kind == 'early'
    local from, to = kind == 'early' and ROWS * SHELF or '-inf', kind == 'due' and '(' .. ROWS * SHELF or '+inf'
    local set = K[(is_ready and 'ready' or kind) .. ':' .. group]
    found = redis.call('ZRANGEBYSCORE', set, from, to, 'WITHSCORES', 'LIMIT', 0, FRONT)
    found.shelf = found[2] and shelf_at(found[2]) or -1
    fronts[kind][group] = found
  end
  return found
end

-- An account's place in the index has changed.
local function forget_fronts(kind, group)
  moves = moves + 1
  for _, name in ipairs(kind == 'ready' and {'due', 'early'} or {kind}) do fronts[name][group] = nil end
end

local function all_groups()
  if groups then return groups end
  groups = {}
  each_field(K.groups, function(text, number)
    local signature = cjson.decode(text)
    groups[#groups + 1] = {number = number, text = text, images = signature[1], denied = set_of(signature[2])}
  end)
  if meta.mixed then groups[#groups + 1] = {number = '0', images = SHELVES, denied = {}} end
  return groups
end

-- `denied`: the models that all its keys deny.
local function group_of(a, denied)
  local GROUPS_MAX = 64  -- signatures; accounts of further ones share group 0, and each is looked at itself
  table.sort(denied)
  local models = #denied > 0 and cjson.encode(denied) or '[]'
  local text = '[' .. math.min(SHELVES, a.record.images_per_minute) .. ',' .. models .. ']'
  for _, group in ipairs(all_groups()) do
    if group.text == text then return group.number end
  end
  local number = tostring(redis.call('HLEN', K.groups) + 1)
  groups = nil
  if tonumber(number) > GROUPS_MAX then
    set_meta('mixed', 1)
    return '0'
  end
  redis.call('HSET', touch('groups'), text, number)
  return number
end

-- The groups whose accounts can serve a need at all.
local function able_groups(need)
  if need.able and need.able_at == groups then return need.able end
  local found = {}
  for _, group in ipairs(all_groups()) do
    if group.images >= math.min(SHELVES, need.n) and not group.denied[need.m or ''] then
      found[#found + 1] = group.number
    end
  end
  need.able, need.able_at = found, groups
  return found
end

-- Where an account belongs: kind and score, and the next moment at which that may change by itself. `key` and `why`: see
-- key_of.
local function kind_of(a, key, why)
  if not key then
    if not why.at then return nil end
    if not why.waits then return 'out', why.at, why.next_us end
    return 'resting', math.max(now, why.at), math.min(why.next_us or math.huge, why.at > now and why.at or now + TRIAL)
  end
  local load, limits, concurrency = a.load, a.record, concurrency_of(a)
  local at, minute_at = room_at(a, 1)
  if minute_at > now or load.in_flight >= concurrency then return 'full', at, minute_at end
  local due, span = pace_of(a)
  if load.kind == 'full' and due < now - span / 2 then  -- it was full for a while: accounts that were, begin apart
    load.paced_at = now
    span = select(2, pace_of(a))
    load.paced_at = now - span * (1 - (limits.phase or 0))
    due = pace_of(a)
  end
  local shelf = math.max(0, math.min(SHELVES, limits.images_per_minute - a.images))
  local row = (due <= now and 0 or ROWS) + SHELVES - shelf
  local usage = math.max(a.requests / rate_of(a), a.images / limits.images_per_minute, load.in_flight / concurrency)
  local fullness = math.floor(usage * 10000 / limits.weight)
  return 'ready', row * SHELF + fullness + ((load.used_at or 0) % 1e10) / 1e10, due > now and due or nil
end

-- Adds an account's part to the sums of usable accounts: {group, requests of a minute, concurrency, calls in flight}.
local function add_sums(sums, sign)
  if not sums then return end
  add_meta('capacity', sign * sums[2])
  add_meta('concurrency', sign * sums[3])
  add_meta('concurrency:' .. sums[1], sign * sums[3])
  add_meta('in_flight:' .. sums[1], sign * sums[4])
end

local function index(a, kind, score, denied)
  local load, group = a.load, kind and group_of(a, denied)
  if load.kind then
    forget_fronts(load.kind, load.group)
    if load.kind ~= kind or load.group ~= group then redis.call('ZREM', K[load.kind .. ':' .. load.group], a.name) end
  end
  if kind == 'ready' then
    local before = load.kind == 'ready' and load.group == group and math.floor(load.score / SHELF) or math.huge
    if math.floor(score / SHELF) < before then is_freed = true end
  end
  if kind then
    redis.call('ZADD', touch(kind .. ':' .. group), score, a.name)
    forget_fronts(kind, group)
  end
  load.kind, load.group, load.score = kind, group, score
  add_sums(load.sums, -1)
  local is_usable = kind == 'ready' or kind == 'full'
  load.sums = is_usable and {group, rate_of(a), concurrency_of(a), load.in_flight} or nil
  add_sums(load.sums, 1)
end

-- Writes an account back: its place in the index, and when it is to be looked at again.
local function put_back(a)
  local load, next_us = a.load, math.huge
  local function at(us) if us and us > now and us < next_us then next_us = us end end
  if load.log[1] then at(load.log[1] + window()) end
  if not a.record then
    index(a, nil)
    if not load.log[1] and load.in_flight == 0 then
      redis.call('ZREM', K.timers, a.name)
      redis.call('HDEL', K.loads, a.name)
      return
    end
  else
    if load.rate and rate_of(a) >= a.record.requests_per_minute then load.rate, load.rate_at = nil, nil end
    if load.concurrency and concurrency_of(a) >= a.record.max_concurrency then
      load.concurrency, load.concurrency_at = nil, nil
    end
    for _, since in pairs({load.rate_at, load.concurrency_at}) do
      at(since + (math.floor((now - since) / MINUTE) + 1) * MINUTE)
    end
    if load.in_flight > 0 then at(now + MINUTE) end  -- one of its calls ends, or its lease does
    local key, why = key_of(a, {n = 1})
    local kind, score, change_us = kind_of(a, key, why)
    at(change_us)
    if kind == 'ready' and setting('waiting_b') > 0 then at((pace_of(a, true))) end
    local denied = {}
    for _, model in ipairs(denied_models()) do
      local one, reason = key_of(a, {n = 1, m = model})
      if not one then at(reason.next_us) end
      if not one and (key or (why.waits and not reason.waits)) then denied[#denied + 1] = model end
    end
    index(a, kind, score, denied)
  end
  if next_us < math.huge then
    redis.call('ZADD', touch('timers'), next_us, a.name)
  else
    redis.call('ZREM', K.timers, a.name)
  end
  redis.call('HSET', touch('loads'), a.name, cmsgpack.pack(load))
end

-- Whether an account may have room for a need now, of those that their pace lets go (`due`) or of any; `choose` finds
-- out.
local function may_fit(need, kind)
  if need.fits_at ~= moves then need.fits_at, need.due, need.early = moves, nil, nil end
  if need[kind] == nil then
    need[kind] = false
    for _, group in ipairs(able_groups(need)) do
      need[kind] = need[kind] or front(kind, group).shelf >= math.min(SHELVES, need.n)
    end
  end
  return need[kind]
end

local function may_fit_any(need) return may_fit(need, 'due') or may_fit(need, 'early') end

-- The account that serves a need now: {account, key, fields of its cooldowns}; or nil. `reserved`: by account the
-- images of the call that it is kept for, and that must not be delayed.
local function choose(need, is_over, reserved)
  local best, lowest = nil, math.huge
  for _, kind in ipairs(is_over and {'due'} or {'due', 'early'}) do
    for _, group in ipairs(able_groups(need)) do
      local tries = 1 + (need.avoided or 0) + (group == '0' and FRONT or 0) + (need.q == 'b' and BATCH_TRIES or 0)
      local entries = front(kind, group)
      for i = 1, #entries, 2 do
        local name, score = entries[i], tonumber(entries[i + 1])
        if tries == 0 or score >= lowest or shelf_at(score) < math.min(SHELVES, need.n) then break end
        local a, others = accounts[name], reserved[name]
        if a and not (others and delays(a, need.n, others)) then
          local at, key, fields = serve_at(a, need, is_over)
          if at and at <= now and key then best, lowest = {a, key, fields}, score end
          tries = tries - 1
        end
      end
    end
  end
  return best
end

-- The soonest moment at which some account can serve a need, and "busy" or "down", the reason to wait; or nil and why:
-- "down" with the moment at which one that is out may be back (0 unknown), or "nothing": all that could serve are
-- avoided. Looks at the first account of each kind and group, and at one more for each that is to be avoided. An
-- upstream whose breaker is open is waited for only by what waits already (`waits`), for a minute at most.
local function outlook(need, is_over, waits)
  local left, breaker = gate()
  if left == 0 and is_out(breaker) then
    local worth_us = waits and breaker.state == 'cooling' and MINUTE or 0
    if breaker.until_us > now + worth_us then return nil, 'down', breaker.until_us end
  end
  local soonest, reason, back, is_avoided = math.huge, nil, math.huge, false
  for _, group in ipairs(all_groups()) do
    for _, kind in ipairs({'due', 'early', 'full', 'resting', 'out'}) do
      local entries = front(kind, group.number)
      for i = 1, math.min(#entries, 2 + 2 * (need.avoided or 0)), 2 do
        local a = soonest > now and accounts[entries[i]]
        local at, more, why
        if a then at, more, why = serve_at(a, need, is_over) end
        if at and at < soonest then
          soonest, reason = at, why.state == 'cooling' and not why.busy and 'down' or 'busy'
        elseif a and not at then
          is_avoided = is_avoided or more.is_avoided
          if more.at and more.at > now and more.at < back then back = more.at end
        end
      end
    end
  end
  if not reason then return nil, is_avoided and 'nothing' or 'down', back < math.huge and back or 0 end
  local opens_us = left == 0 and (is_out(breaker) and breaker.until_us or now + TRIAL) or 0
  if opens_us > soonest then return opens_us, 'down' end
  return soonest, reason
end

-- Outages. `outage` and `outage|MODEL` of meta are the moments from which no account could serve anything, or a model,
-- as none was merely busy. An outage ends with the success of a call that was leased since: a cooldown that is over or
-- an account that is added serves nothing yet. So each has one event of its begin and one of its end.
local function is_down(model)
  local soonest, reason = outlook({n = 1, m = model}, false)
  return not soonest or reason == 'down'
end

local function begin_outage(model)
  if setting('outage') > 0 or not is_down(model) then return end
  if not model or is_down() then model = nil end
  local field = model and 'outage|' .. model or 'outage'
  if setting(field) > 0 then return end
  set_meta(field, now)
  append_pool_event('pool.no_capacity', {model = model})
end

local function end_outages(model, leased_at)
  for field, of in pairs({outage = false, ['outage|' .. model] = model}) do
    local since = setting(field)
    if since > 0 and (leased_at >= since or since > now) then
      set_meta(field, 0)
      append_pool_event('pool.capacity_restored', {model = of or nil})
    end
  end
end
