-- Admit a request: check every limit and quota of its tenant and API key, and reserve from all of them or from none. A
-- refused request consumes no images, money or concurrency; it counts in requests_per_minute, unless that is full. So
-- does a request that repeats an order: a full minute refuses it, and no other limit or quota concerns it. The line of a
-- batch counts in no minute and not in the concurrency: only the quotas concern it. It is admitted with a valid claim only:
-- its process may have hung since it claimed the line, and another process may have ended the line or the batch.
-- KEYS[1]  the tenant's record: hash, see redis/__init__.py; its name without "tenant" is the BASE of the names below
-- KEYS[2]  the tenant's API keys: hash, key ID -> JSON
-- KEYS[3]  the reservation: hash, created here
-- KEYS[4], KEYS[5]  open reservations of the tenant, of the key: sorted set, reservation ID -> expiry (Unix ms); those
--          for lines of batches also in "batch_open" beside it
-- KEYS[6], KEYS[7]  rate of the tenant, of the key: hash, Unix second -> "requests images" admitted in it
--          Of the same hash tag, named by the clock: BASE .. "day:YYYYMMDD" and "month:YYYYMM", and of the key
--          BASE .. "key:ID:day:..." and "month:...": hashes of charged or reserved images and usd_micros; BASE
--          .. "recent", see settle.lua; BASE .. "ledger:YYYYMMDD"; BASE .. "transfers", see transfer.lua
-- ARGV[1]  reservation ID, or "" to read only
-- ARGV[2]  key ID, or "" for the tenant alone
-- ARGV[3], ARGV[4], ARGV[5]  request ID, model, images
-- ARGV[6]  costs of the request: "since:micro-dollars" joined by ",", since in Unix seconds; the latest past one applies
-- ARGV[7]  lease of the reservation, milliseconds
-- ARGV[8]  1, with ARGV[1] "": count a request that was refused for its content; decision "rate" if its minute is full
-- ARGV[9]  limit on a tenant's reservations in Redis, ARGV[10] limit on the records of a tenant's day; absent: no limit
-- ARGV[11] the request's transfer, which ends here; or "" or absent
-- ARGV[12] JSON: the request's identity, see repeats.lua: kind "keyed" (by Idempotency-Key), "retry", "first" or
--          "plain", name, fingerprint, channel (of its process), unknown_ms and keyed_ms (retentions), keys_max; or ""
-- ARGV[13] JSON: the line of a batch that the request is made for: batch_id, custom_id, claim (see
--          jobs/lua/claim_lines.lua; not checked if ""); or null or absent
-- ARGV[14] offsets of the time zone of days and months, see windows.lua; or "" or absent
-- ARGV[15] JSON: what the request is attributed to, tags, user and summed, see split_sums.lua; or absent
-- Returns  JSON: price_since_s, the "since" of the cost that is reserved; decision "admitted", "unknown" (no such tenant or key, or disabled, or expired), "unclaimed" (the line is
--          not to run, or not by this process), "rate", "quota" or
--          "repeated" (nothing is reserved: order is the one to join, see find_order in repeats.lua). With "rate" and
--          "quota": scope, limit, allowed, taken, asked, frees_at_s (Unix; 0: not known), now_s, is_permanent (asks for
--          more than is ever allowed). With all but "unknown" and "unclaimed": rates, whose requests and
--          images have limit, remaining and reset_s (seconds until nothing is used) of the tighter scope, if there is such
--          a limit, and whose quotas list the status of every quota of tenant and key: scope, name, limit, used (this request
--          included, less what was credited) and resets_at_s (Unix); not for a line. With ARGV[1] "": used, the counters of
--          each scope, of quotas less what was credited, with requests_free_at_s and images_free_at_s (Unix, when none of
--          its minute is used; absent if none is), and month_ends_s (Unix), when the month of the quotas ends.
--          has_events if a quota refused for the first time in its window, or since it was raised: an event is appended, see events.lua
-- TTL      rate 2 minutes, day 3 days, month 40 days; reservation and open 40 days: how long a dead process's reservation
--          waits for its recovery
-- Clock    the server's. A second counts until every moment of it is 60 s ago, and not before it has begun. A future one
--          was written before the clock was set back, and counts again when the clock reaches it.
-- Repeats  with the same reservation ID reserve nothing more
local RATE_KEPT_S, DAY_KEPT_S, MONTH_KEPT_S, OPEN_KEPT_S = 120, 3 * 86400, 40 * 86400, 40 * 86400
local RECENT_S, RECENT_SLICE_S = 900, 300
-- Limit on the requests that join a running order: each holds a connection.
local JOINED_MAX = 32
-- An expired reservation counts until it is settled, at most 15 minutes: its process may only be disconnected.
local UNSWEPT_MS = 900 * 1000

local time = redis.call('TIME')
local now_s = tonumber(time[1])
local now_ms = now_s * 1000 + math.floor(tonumber(time[2]) / 1000)
local base = string.sub(KEYS[1], 1, -7)
local reservation_id, key_id, images = ARGV[1], ARGV[2], tonumber(ARGV[5])
local key_base = base .. 'key:' .. key_id .. ':'
if ARGV[11] and ARGV[11] ~= '' then
  for _, prefix in ipairs({base, key_base}) do redis.call('ZREM', prefix .. 'transfers', ARGV[11]) end
end

local calendar = windows_at(now_s, ARGV[14] or '')

-- The seconds that count, oldest first, and those that never will again. A future one, within a minute, is neither,
-- because its reservations still refund to it.
local function read_rate(name)
  local rate = {name = name, seconds = {}, stale = {}, requests = 0, images = 0}
  local fields = redis.call('HGETALL', name)
  for i = 1, #fields, 2 do
    local at = tonumber(fields[i])
    if at < now_s - WINDOW_S or at > now_s + WINDOW_S then
      table.insert(rate.stale, fields[i])
    elseif at <= now_s then
      local requests, made = string.match(fields[i + 1], '(%-?%d+) (%-?%d+)')
      local second = {at = at, requests = tonumber(requests), images = tonumber(made)}
      table.insert(rate.seconds, second)
      rate.requests, rate.images = rate.requests + requests, rate.images + made
      if at == now_s then rate.now = second end
    end
  end
  table.sort(rate.seconds, function(a, b) return a.at < b.at end)
  return rate
end

local function read_window(prefix, period, kept_s)
  local name = prefix .. period .. ':' .. calendar[period]
  local found = redis.call('HMGET', name, 'images', 'usd_micros', 'credited_images', 'credited_usd_micros')
  return {
    name = name, kept_s = kept_s, ends_s = calendar[period .. '_ends_s'],
    images = (found[1] or 0) - (found[3] or 0), usd_micros = (found[2] or 0) - (found[4] or 0),
    credited_images = tonumber(found[3] or 0), credited_usd_micros = tonumber(found[4] or 0),
  }
end

local function read_scope(name, key_id, prefix, open, rate, limits)
  local function count(set, after_ms) return redis.call('ZCOUNT', prefix .. set, '(' .. after_ms, '+inf') end
  local interactive = count('open', now_ms - UNSWEPT_MS) - count('batch_open', now_ms - UNSWEPT_MS)
  return {
    name = name, key_id = key_id, limits = limits, open = open, batch_open = prefix .. 'batch_open', rate = read_rate(rate),
    day = read_window(prefix, 'day', DAY_KEPT_S), month = read_window(prefix, 'month', MONTH_KEPT_S),
    running = interactive + count('transfers', now_ms),
  }
end

local refusal = nil

-- Refuses if a limit has no room. The most relevant refusal is returned: quota before rate, permanent before temporary,
-- longest wait first.
local function check(scope, decision, limit, used, asked, frees_at_s)
  local allowed = scope.limits[limit]
  if not allowed or used + asked <= allowed then return end
  local rank = (decision == 'quota' and 2 or 0) + (asked > allowed and 1 or 0)
  if refusal and (refusal.rank > rank or (refusal.rank == rank and refusal.frees_at_s >= frees_at_s)) then return end
  refusal = {
    decision = decision, scope = scope.name, limit = limit, frees_at_s = frees_at_s, now_s = now_s, rank = rank,
    allowed = exact(allowed), taken = exact(used), asked = exact(asked), is_permanent = asked > allowed,
  }
end

local exhausted = {}

-- A request that would not fit into an unused quota does not exhaust it.
local function check_quota(scope, quota, asked)
  local window, limit = scope[quota.period], not quota.budget and scope.limits[quota.limit]
  if not limit then return end
  local used = window[quota.measure]
  check(scope, 'quota', quota.limit, used, asked, window.ends_s)
  if used + asked > limit and asked <= limit then
    local data = describe_quota(base, scope.key_id, quota, window, used, limit)
    data.percent, data.asked = math.floor(used / limit * 100), quota.measure == 'images' and asked or dollars(asked)
    table.insert(exhausted, {window = window.name, mark = 'exhausted:' .. quota.limit, limit = limit, data = data})
  end
end

-- Returns true if the minute is full. It frees when enough seconds have left the window for `asked` to fit.
local function check_rate(scope, measure, asked)
  local limit, left = measure .. '_per_minute', scope.rate[measure]
  local allowed = scope.limits[limit]
  if not allowed or left + asked <= allowed then return false end
  local frees_at_s = 0
  for _, second in ipairs(scope.rate.seconds) do
    left = left - second[measure]
    if left + asked <= allowed then
      frees_at_s = second.at + WINDOW_S + 1
      break
    end
  end
  check(scope, 'rate', limit, scope.rate[measure], asked, frees_at_s)
  return true
end

-- Returns true while a line's claim is valid, the line has not ended, and its batch is running.
local function is_claimed(claim)
  local batch_id, number = string.match(claim, '^(%S+) (%d+) ')
  local batch = base .. 'batch:' .. batch_id
  local found = redis.call('HMGET', batch, 'status', 'expires_at')
  return found[1] == 'in_progress' and now_s < tonumber(found[2] or 0)
    and redis.call('GETBIT', batch .. ':ended', number) == 0 and redis.call('ZSCORE', base .. 'batch_lines', claim)
end

local tenant = redis.call('HMGET', KEYS[1], 'disabled', 'limits', 'created_at')
if not tenant[3] or (tenant[1] == '1' and reservation_id ~= '') then return cjson.encode({decision = 'unknown'}) end
local limits = tenant[2] and tenant[2] ~= '' and cjson.decode(tenant[2]) or {}
limits.recent_requests, limits.records_per_day = tonumber(ARGV[9] or ''), tonumber(ARGV[10] or '')
local identity = ARGV[12] and ARGV[12] ~= '' and cjson.decode(ARGV[12]) or nil
local line = ARGV[13] and ARGV[13] ~= 'null' and cjson.decode(ARGV[13]) or nil
if identity then limits.joined_requests, limits.idempotency_keys = JOINED_MAX, identity.keys_max end
local scopes = {read_scope('tenant', '', base, KEYS[4], KEYS[6], limits)}
if key_id ~= '' then
  local record = redis.call('HGET', KEYS[2], key_id)
  local key = record and cjson.decode(record)
  if not key or (key.expires_at and key.expires_at <= now_s) then return cjson.encode({decision = 'unknown'}) end
  scopes[2] = read_scope('key', key_id, key_base, KEYS[5], KEYS[7], key.limits or {})
end

local cost, latest = 0, -1
for since, micros in string.gmatch(ARGV[6], '(%d+):(%d+)') do
  if tonumber(since) <= now_s and tonumber(since) > latest then cost, latest = tonumber(micros), tonumber(since) end
end

local is_known = reservation_id ~= '' and redis.call('EXISTS', KEYS[3]) == 1
local price_since_s = is_known and redis.call('HGET', KEYS[3], 'price_since_s') or latest
local is_new = reservation_id ~= '' and not is_known
if is_new and line and (line.claim or '') ~= '' and not is_claimed(line.claim) then
  return cjson.encode({decision = 'unclaimed'})
end
local is_minute_full = false
local order = is_new and identity and find_order(base, identity, now_ms) or nil
if not line and (is_new or ARGV[8] == '1') then
  for _, scope in ipairs(scopes) do is_minute_full = check_rate(scope, 'requests', 1) or is_minute_full end
end
if order and order.state == 'running' then check(scopes[1], 'rate', 'joined_requests', order.joined, 1, 0) end
if is_new and not order then
  for _, scope in ipairs(scopes) do
    for _, quota in ipairs(QUOTAS) do check_quota(scope, quota, quota.measure == 'images' and images or cost) end
    if not line then
      check_rate(scope, 'images', images)
      check(scope, 'rate', 'concurrency', scope.running, 1, 0)
    end
  end
  -- The tenant's reservations in Redis, open or settled in the last 15 minutes, and when the next of them is dropped.
  local recent, frees_at_s = sum_slices(base .. 'recent', RECENT_SLICE_S, RECENT_S, now_s)
  check(scopes[1], 'rate', 'recent_requests', redis.call('ZCARD', KEYS[4]) + recent, 1, frees_at_s)
  if identity and identity.kind == 'keyed' then
    local kept_s = identity.keyed_ms / 1000
    local keys, key_frees_at_s = sum_slices(base .. 'idempotency_keys', kept_s / 24, kept_s, now_s)
    check(scopes[1], 'rate', 'idempotency_keys', keys, 1, math.ceil(key_frees_at_s))
  end
  local records = tonumber(redis.pcall('XLEN', base .. 'ledger:' .. calendar.day)) or 0
  check(scopes[1], 'quota', 'records_per_day', records, 1, calendar.day_ends_s)
end

if #exhausted > 0 then redis.call('XLEN', base .. 'events') end

local is_reserved = is_new and not refusal and not order
local is_counted = not line and (is_reserved or (not is_minute_full and (is_new or ARGV[8] == '1')))
if is_counted then
  for _, scope in ipairs(scopes) do
    local rate, before = scope.rate, scope.rate.now or {requests = 0, images = 0}
    local made = before.images + (is_reserved and images or 0)
    redis.call('HSET', rate.name, now_s, (before.requests + 1) .. ' ' .. made)
    if #rate.stale > 0 then redis.call('HDEL', rate.name, unpack(rate.stale)) end
    redis.call('EXPIRE', rate.name, RATE_KEPT_S)
  end
end
if is_reserved then
  for _, scope in ipairs(scopes) do
    for _, window in ipairs({scope.day, scope.month}) do
      redis.call('HINCRBY', window.name, 'images', images)
      redis.call('HINCRBY', window.name, 'usd_micros', cost)
      redis.call('EXPIRE', window.name, window.kept_s)
    end
    for _, open in ipairs({scope.open, line and scope.batch_open}) do
      redis.call('ZADD', open, now_ms + tonumber(ARGV[7]), reservation_id)
      redis.call('EXPIRE', open, OPEN_KEPT_S)
    end
  end
  redis.call('HSET', KEYS[3], 'key_id', key_id, 'request_id', ARGV[3], 'model', ARGV[4], 'images', images,
    'cost', cost, 'price_since_s', latest, 'second', now_s, 'admitted_ms', now_ms, 'day', calendar.day, 'month', calendar.month,
    'day_ends_s', calendar.day_ends_s, 'month_ends_s', calendar.month_ends_s)
  if line then redis.call('HSET', KEYS[3], 'batch_id', line.batch_id, 'custom_id', line.custom_id) end
  for name, value in pairs(cjson.decode(ARGV[15] or '{}')) do redis.call('HSET', KEYS[3], name, value) end
  redis.call('EXPIRE', KEYS[3], OPEN_KEPT_S)
  if identity then remember_order(base, identity, reservation_id, now_ms) end
elseif order and order.joined and not refusal then
  redis.call('HINCRBY', base .. 'reservation:' .. order.id, 'joined', 1)
elseif refusal and identity and not order then
  remember_refusal(base, identity, reservation_id, now_ms)
end

local has_events
for _, one in ipairs(exhausted) do
  if one.limit > tonumber(redis.call('HGET', one.window, one.mark) or -1) then
    redis.call('HSET', one.window, one.mark, string.format('%.0f', one.limit))
    append_event(base .. 'events', 'quota.exhausted', now_ms, cjson.encode(one.data))
    has_events = true
  end
end

local answer = refusal or {decision = order and 'repeated' or 'admitted', order = order}
answer.has_events, answer.price_since_s = has_events, math.max(0, tonumber(price_since_s))
answer.rates = line and {} or {
  requests = rate_status(scopes, 'requests', is_counted and 1 or 0, now_s),
  images = rate_status(scopes, 'images', is_reserved and images or 0, now_s),
  quotas = quota_statuses(scopes, is_reserved and images or 0, is_reserved and cost or 0) }
if reservation_id == '' then
  answer.used, answer.month_ends_s = {}, calendar.month_ends_s
  for _, scope in ipairs(scopes) do answer.used[scope.name] = counters(scope) end
end
return cjson.encode(answer)
