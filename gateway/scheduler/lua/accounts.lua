-- Accounts: what each has sent in the last minute and has in flight, and what it may still take; and which of its keys
-- a need can use. Shared, after health.lua.
--
-- A need is {n = images of one call, m = model or nil for any, x = set to avoid: "ACCOUNT/" or "ACCOUNT/KEY", avoided =
-- their number}.
local EXACT_MAX = 64        -- entries of a log that are kept one by one; more are merged
local GRAIN = MINUTE / 256  -- into spans of this length

-- Entries from a clock that was ahead: of more than a window ahead nothing is known, and they are dropped; others count
-- from now on, so that no minute is granted twice.
local function drop_old(a)
  local load, log, size, span = a.load, a.load.log, #a.load.log, window()
  if size > 0 and (log[1] <= now - span or log[size - 3] > now) then
    local kept, at = {}, 0
    for i = 1, size, 4 do
      local t = log[i]
      if t > now - span and t <= now + span then
        kept[at + 1], kept[at + 2], kept[at + 3], kept[at + 4] = math.min(t, now), log[i + 1], log[i + 2], log[i + 3]
        at = at + 4
      end
    end
    load.log = kept
  end
  a.requests, a.images = 0, 0
  for i = 1, #load.log, 4 do a.requests, a.images = a.requests + load.log[i + 1], a.images + load.log[i + 2] end
  for _, name in ipairs({'paced_at', 'batch_at', 'rate_at', 'concurrency_at'}) do
    if load[name] and load[name] > now then load[name] = now end
  end
end

local records, read_records = cached('members', cjson.decode)
local loads, read_loads = cached('loads', cmsgpack.unpack)
local accounts = setmetatable({}, {__index = function(all, name)
  local record, load = records[name], loads[name]
  if load and not load.in_flight then load = nil end  -- of a build before the first release
  local a = (record or load) and {name = name, record = record or nil,
    load = load or {log = {}, in_flight = 0, last = {}, made = 0}}
  if a then drop_old(a) end
  all[name] = a
  return a
end})

-- A lowered estimate, with its recovery: a tenth of the limit per minute, at least one.
local function grown(limit, kept, since)
  if not kept then return limit end
  local steps = math.max(0, math.floor((now - since) / MINUTE))
  return math.max(1, math.min(limit, kept + steps * math.max(1, math.floor(limit / 10))))
end

local function rate_of(a) return grown(a.record.requests_per_minute, a.load.rate, a.load.rate_at) end

local function concurrency_of(a) return grown(a.record.max_concurrency, a.load.concurrency, a.load.concurrency_at) end

-- What batch calls leave of an account's minute while interactive requests come: requests, and images for them. A paced
-- batch would otherwise use up each minute, and the next interactive request would wait for a step of the pace.
local function kept_of(a)
  local LEAST = 2  -- requests of the pool that are kept, at least
  if not is_interactive() then return 0, 0 end
  local rate = rate_of(a)
  local part = math.max(LEAST, setting('share_unmet')) * rate / math.max(rate, setting('capacity'))
  local requests = math.min(math.ceil(part), math.floor(rate / 2))
  return requests, math.min(requests * setting('interactive_n'), math.floor(a.record.images_per_minute / 2))
end

-- Returns when it has capacity for a call of n images, as long as calls last; and when by its minute alone. A call for a
-- batch leaves what is kept.
local function room_at(a, images, for_batch)
  local kept, kept_images = 0, 0
  if for_batch then kept, kept_images = kept_of(a) end
  kept_images = math.min(kept_images, a.record.images_per_minute - images)
  local log, free = a.load.log, rate_of(a) - a.requests - kept
  local missing = a.images + images + kept_images - a.record.images_per_minute
  local at, span = now, window()
  for i = 1, #log, 4 do
    if free >= 1 and missing <= 0 then break end
    free, missing, at = free + log[i + 1], missing - log[i + 2], log[i] + span
  end
  if free < 1 or missing > 0 then at = now + span end  -- a call that is only supposed counts, and is not in the log
  local minute_at = math.max(now, at)
  if a.load.in_flight < concurrency_of(a) then return minute_at, minute_at end
  return math.max(minute_at, now + setting('call_us') / math.max(1, a.load.in_flight)), minute_at
end

-- Returns true if a call now would delay the capacity for another one of n images.
local function delays(a, images, others)
  local _, before = room_at(a, others)
  a.requests, a.images = a.requests + 1, a.images + images
  local _, after = room_at(a, others)
  a.requests, a.images = a.requests - 1, a.images - images
  return after > before or a.load.in_flight + 1 == concurrency_of(a)
end

-- The even pace: from when on a request over its tenant's share may be sent, and the span between two of them. The
-- remaining capacity is spread until more gets free, so that a tenant below its share finds some at any moment. Calls of
-- batches keep a pace of their own, which comes after that of the others and does not delay it.
local function pace_of(a, for_batch)
  local load, log = a.load, a.load.log
  if setting('paced') <= 0 or #log == 0 then return now, 0 end
  local LAST = 2          -- requests that an account has left, which are kept for tenants below their share
  local LAST_SPAN = 1.15  -- until more becomes free within this many even spans for each of them
  local minute = window()
  local paced_at, cost = load.paced_at, load.paced_n or 1
  if for_batch and load.batch_at and load.batch_at > (paced_at or 0) then
    paced_at, cost = load.batch_at, load.batch_n
  end
  local is_paced = paced_at and paced_at > now - minute
  local from, span = is_paced and paced_at or log[#log - 3], 0
  local rate = rate_of(a)
  local free, requests, images = rate - a.requests, rate - a.requests, a.record.images_per_minute - a.images
  for i = 1, #log, 4 do
    local left = log[i] + minute - from
    if requests + 1 > 0 and left > span * (requests + 1) then span = left / (requests + 1) end
    if images + cost > 0 and left * cost > span * (images + cost) then span = left * cost / (images + cost) end
    requests, images = requests + log[i + 1], images + log[i + 2]
  end
  local due = from + span * (is_paced and 1 or 1 - (a.record.phase or 0))
  if free <= LAST then due = math.max(due, log[1] + minute - free * LAST_SPAN * minute / rate) end
  return due, span
end

-- Counts a request as sent at t. Returns the number of its entry: in a long log that of the next one, or of the last
-- one if that is of the same moment.
local function add_entry(a, t, images)
  local load, log = a.load, a.load.log
  local at = #log + 1
  while at > 4 and log[at - 4] > t do at = at - 4 end
  a.requests, a.images = a.requests + 1, a.images + images
  local like = log[at] and at or at - 4
  if #log >= 4 * EXACT_MAX and (like == at or math.floor(log[like] / GRAIN) == math.floor(t / GRAIN)) then
    log[like], log[like + 1], log[like + 2] = math.max(log[like], t), log[like + 1] + 1, log[like + 2] + images
    return log[like + 3]
  end
  load.made = load.made + 1
  for i, value in ipairs({t, 1, images, load.made}) do table.insert(log, at + i - 1, value) end
  return load.made
end

-- Removes an unsent request from its entry, unless that has left the log.
local function remove_entry(a, number, images)
  local log = a.load.log
  for i = 1, #log, 4 do
    if log[i + 3] == number then
      log[i + 1], log[i + 2] = log[i + 1] - 1, log[i + 2] - images
      a.requests, a.images = a.requests - 1, a.images - images
      for _ = 1, log[i + 1] <= 0 and 4 or 0 do table.remove(log, i) end
      return
    end
  end
end

-- Keys ----------------------------------------------------------------------------------------------------------------

local holds, read_holds = cached('held', cjson.decode)

-- Reads at once what key_of needs of these accounts, and announces the cooldowns that are over.
local function read_keys(names)
  local members, fields = {}, {}
  read_records(names)
  read_loads(names)
  for _, name in ipairs(names) do
    local a = accounts[name]
    if a and a.record and not a.is_read then
      a.is_read = true
      members[#members + 1] = name
      for _, key in ipairs(a.record.keys) do
        key.member = name .. '/' .. key.name
        members[#members + 1] = key.member
        for _, model in ipairs(denied_models()) do fields[#fields + 1] = key.member .. '|' .. model end
      end
    end
  end
  if #members == 0 then return end
  read_holds(members)
  for _, member in ipairs(members) do fields[#fields + 1] = member end
  read_cooldowns(fields)
  for _, field in ipairs(fields) do announce(field) end
end

-- The cooldown that keeps a key out longest, of the fields that concern it, and its end (0: a trial decides); and
-- whether a request waits for it: there is no quarantine.
local function obstacle_of(fields)
  local found, at, waits = nil, 0, true
  for _, field in ipairs(fields) do
    local cooldown = cooldowns[field]
    local is_open, back = opens(cooldown)
    if not is_open then
      waits = waits and state_of(cooldown) ~= 'quarantined'
      if not found or back > at then found, at = cooldown, back end
    end
  end
  return found, at, waits
end

-- Returns the key for a need, with the fields of the cooldowns that its lease would try. Without one: nil and why:
-- {at, waits, state, busy, is_avoided, next_us: end of the first cooldown}. From `at` on one may be used (nil: none; 0:
-- a trial decides); it waits if only cooldowns and trials prevent it.
local function key_of(a, need)
  if not a.is_read then read_keys({a.name}) end
  local why, best, best_fields, oldest = {}, nil, nil, math.huge
  for _, key in ipairs(holds[a.name] and {} or a.record.keys) do
    local fields = {a.name, key.member, denied_models()[need.m or ''] and key.member .. '|' .. need.m}
    local obstacle, at, waits = obstacle_of(fields)
    local used = a.load.last[key.name] or 0
    local is_avoided = need.x and (need.x[key.member] or need.x[a.name .. '/'])
    if not holds[key.member] then
      why.is_avoided = why.is_avoided or is_avoided
      if not is_avoided and obstacle then
        if at > now and at < (why.next_us or math.huge) then why.next_us = at end
        if not why.at or (waits and not why.waits) or (waits == why.waits and at < why.at) then
          why.at, why.waits, why.state, why.busy = at, waits, state_of(obstacle), obstacle.busy
        end
      elseif not is_avoided and used < oldest then
        best, best_fields, oldest = key, fields, used
      end
    end
  end
  return best, best and best_fields or why
end
