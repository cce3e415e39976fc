-- Admit a request: check every limit and quota of its tenant and API key, and reserve from all of them or from none. A
-- refused request consumes no images, money or concurrency; it counts in requests_per_minute, unless that is full.
-- KEYS[1]  the tenant's record: hash, see redis/__init__.py; its name without "tenant" is the BASE of the names below
-- KEYS[2]  the tenant's API keys: hash, key ID -> JSON
-- KEYS[3]  the reservation: hash, created here
-- KEYS[4], KEYS[5]  open reservations of the tenant, of the key: sorted set, reservation ID -> expiry (Unix ms)
-- KEYS[6], KEYS[7]  rate of the tenant, of the key: hash, Unix second -> "requests images" admitted in it
--          Of the same hash tag, named by the clock: BASE .. "day:YYYYMMDD" and "month:YYYYMM", and of the key
--          BASE .. "key:ID:day:..." and "month:...": hashes of charged or reserved images and usd_micros; BASE
--          .. "recent", see settle.lua; BASE .. "ledger:YYYYMMDD"
-- ARGV[1]  reservation ID, or "" to read only
-- ARGV[2]  key ID, or "" for the tenant alone
-- ARGV[3]  request ID
-- ARGV[4]  model
-- ARGV[5]  images
-- ARGV[6]  costs of the request: "since:micro-dollars" joined by ",", since in Unix seconds; the latest past one applies
-- ARGV[7]  lease of the reservation, milliseconds
-- ARGV[8]  1, with ARGV[1] "": count a request that was refused for its content; decision "rate" if its minute is full
-- ARGV[9]  limit on a tenant's reservations in Redis, ARGV[10] limit on the records of a tenant's day; absent: no limit
-- ARGV[11] the request's transfer, which ends here; or "" or absent. See transfer.lua
-- Returns  JSON: decision "admitted", "unknown" (no such tenant or key, or disabled, or expired), "rate" or "quota".
--          With the last two: scope, limit, allowed, taken, asked, frees_at_s (Unix; 0: not known), now_s, is_permanent (asks
--          for more than is ever allowed). With all but "unknown": requests and images, each [allowed, used, seconds until
--          nothing is used] of the tighter scope, if there is such a limit. With ARGV[1] "": used, the counters of the
--          narrowest scope
-- TTL      rate 2 minutes, day 3 days, month 40 days; reservation and open 40 days: how long a dead process's reservation
--          waits for its recovery
-- Clock    the server's. A second counts until every moment of it is 60 s ago, and not before it has begun. A future one
--          was written before the clock was set back, and counts again when the clock reaches it.
-- Repeats  with the same reservation ID reserve nothing more
local RATE_KEPT_S, DAY_KEPT_S, MONTH_KEPT_S, TICKET_KEPT_S = 120, 3 * 86400, 40 * 86400, 40 * 86400
local WINDOW_S = 60
local RECENT_S, RECENT_SLICE_S = 900, 300
-- An expired reservation counts until it is settled, at most 15 minutes: its process may only be disconnected.
local UNSWEPT_MS = 900 * 1000

local time = redis.call('TIME')
local now_s = tonumber(time[1])
local now_ms = now_s * 1000 + math.floor(tonumber(time[2]) / 1000)
local base = string.sub(KEYS[1], 1, -7)
local reservation_id, key_id, images = ARGV[1], ARGV[2], tonumber(ARGV[5])
if ARGV[11] and ARGV[11] ~= '' then
  redis.call('ZREM', base .. 'transfers', ARGV[11])
  redis.call('ZREM', base .. 'key:' .. key_id .. ':transfers', ARGV[11])
end

-- Year, month and day of a day since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
local function civil(days)
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return yoe + era * 400 + (month <= 2 and 1 or 0), month, doy - math.floor((153 * mp + 2) / 5) + 1
end

local today = math.floor(now_s / 86400)
local year, month, day = civil(today)
local day_name, month_name = string.format('%04d%02d%02d', year, month, day), string.format('%04d%02d', year, month)
local day_ends_s, month_ends_s = (today + 1) * 86400, (today + 1) * 86400
while select(2, civil(month_ends_s / 86400)) == month do month_ends_s = month_ends_s + 86400 end

-- The seconds that count, oldest first, and those that never will again. A future one, within a minute, is neither,
-- because its reservations still refund to it.
local function read_rate(name)
  local rate = {seconds = {}, stale = {}, requests = 0, images = 0}
  local fields = redis.call('HGETALL', name)
  for i = 1, #fields, 2 do
    local second = tonumber(fields[i])
    if second < now_s - WINDOW_S or second > now_s + WINDOW_S then
      table.insert(rate.stale, fields[i])
    elseif second <= now_s then
      local requests, made = string.match(fields[i + 1], '(%-?%d+) (%-?%d+)')
      table.insert(rate.seconds, {second, tonumber(requests), tonumber(made)})
      rate.requests, rate.images = rate.requests + requests, rate.images + made
      if second == now_s then rate.now = {tonumber(requests), tonumber(made)} end
    end
  end
  table.sort(rate.seconds, function(a, b) return a[1] < b[1] end)
  return rate
end

local function used_of(name)
  local used = redis.call('HMGET', name, 'images', 'usd_micros')
  return {images = tonumber(used[1] or 0), usd_micros = tonumber(used[2] or 0)}
end

local function read_scope(name, prefix, open, rate, limits)
  return {
    name = name, limits = limits, open = open, rate_name = rate, rate = read_rate(rate),
    day_name = prefix .. 'day:' .. day_name, month_name = prefix .. 'month:' .. month_name,
    day = used_of(prefix .. 'day:' .. day_name), month = used_of(prefix .. 'month:' .. month_name),
    running = redis.call('ZCOUNT', open, '(' .. (now_ms - UNSWEPT_MS), '+inf')
      + redis.call('ZCOUNT', prefix .. 'transfers', '(' .. now_ms, '+inf'),
  }
end

-- When enough of a rate has left the window for `asked` to fit; index 2 for requests, 3 for images.
local function frees_at(rate, index, allowed, used, asked)
  for _, second in ipairs(rate.seconds) do
    used = used - second[index]
    if used + asked <= allowed then return second[1] + WINDOW_S + 1 end
  end
  return 0
end

-- A whole number as text: cjson preserves 14 digits only.
local function exact(number) return string.format('%.0f', number) end

local refusal = nil

-- Selects the most relevant refusal: quota before rate, permanent before temporary, longest wait first.
local function refuse(decision, scope, limit, allowed, used, asked, frees_at_s)
  local rank = (decision == 'quota' and 2 or 0) + (asked > allowed and 1 or 0)
  if refusal and (refusal.rank > rank or (refusal.rank == rank and refusal.frees_at_s >= frees_at_s)) then return end
  refusal = {
    decision = decision, scope = scope.name, limit = limit, frees_at_s = frees_at_s, now_s = now_s, rank = rank,
    allowed = exact(allowed), taken = exact(used), asked = exact(asked), is_permanent = asked > allowed,
  }
end

local is_minute_full = false

local function check_requests(scope)
  local allowed, used = scope.limits.requests_per_minute, scope.rate.requests
  if allowed and used + 1 > allowed then
    is_minute_full = true
    refuse('rate', scope, 'requests_per_minute', allowed, used, 1, frees_at(scope.rate, 2, allowed, used, 1))
  end
end

local function check(scope, cost)
  local limits, rate = scope.limits, scope.rate
  local function quota(limit, used, asked, ends_s)
    local allowed = limits[limit]
    if allowed and used + asked > allowed then refuse('quota', scope, limit, allowed, used, asked, ends_s) end
  end
  quota('images_per_day', scope.day.images, images, day_ends_s)
  quota('images_per_month', scope.month.images, images, month_ends_s)
  quota('usd_micros_per_month', scope.month.usd_micros, cost, month_ends_s)
  check_requests(scope)
  local allowed, used = limits.images_per_minute, rate.images
  if allowed and used + images > allowed then
    refuse('rate', scope, 'images_per_minute', allowed, used, images, frees_at(rate, 3, allowed, used, images))
  end
  if limits.concurrency and scope.running >= limits.concurrency then
    refuse('rate', scope, 'concurrency', limits.concurrency, scope.running, 1, 0)
  end
end

-- Limits a tenant's data in Redis: reservations (open, or settled in the last 15 minutes) and records.
local function check_stored(scope, reservations_max, records_max)
  local reservations, frees_at_s = redis.call('ZCARD', scope.open), 0
  local slices = redis.call('HGETALL', base .. 'recent')
  for i = 1, #slices, 2 do
    local ends_s = (tonumber(slices[i]) + 1) * RECENT_SLICE_S + RECENT_S
    if ends_s > now_s then
      reservations = reservations + slices[i + 1]
      if frees_at_s == 0 or ends_s < frees_at_s then frees_at_s = ends_s end
    end
  end
  if reservations_max and reservations + 1 > reservations_max then
    refuse('rate', scope, 'recent_requests', reservations_max, reservations, 1, frees_at_s)
  end
  local records = tonumber(redis.pcall('XLEN', base .. 'ledger:' .. day_name)) or 0
  if records_max and records + 1 > records_max then
    refuse('quota', scope, 'records_per_day', records_max, records, 1, day_ends_s)
  end
end

local function count(scope, made)
  local rate = scope.rate
  local before = rate.now or {0, 0}
  redis.call('HSET', scope.rate_name, now_s, (before[1] + 1) .. ' ' .. (before[2] + made))
  if #rate.stale > 0 then redis.call('HDEL', scope.rate_name, unpack(rate.stale)) end
  redis.call('EXPIRE', scope.rate_name, RATE_KEPT_S)
end

local function take(scope, cost)
  count(scope, images)
  for name, kept_s in pairs({[scope.day_name] = DAY_KEPT_S, [scope.month_name] = MONTH_KEPT_S}) do
    redis.call('HINCRBY', name, 'images', images)
    redis.call('HINCRBY', name, 'usd_micros', cost)
    redis.call('EXPIRE', name, kept_s)
  end
  redis.call('ZADD', scope.open, now_ms + tonumber(ARGV[7]), reservation_id)
  redis.call('EXPIRE', scope.open, TICKET_KEPT_S)
end

-- Rate status of the tightest scope: {allowed, used, seconds until nothing is used}.
local function tighter(scopes, limit, index, taken)
  local found = nil
  for _, scope in ipairs(scopes) do
    local allowed = scope.limits[limit]
    if allowed then
      local used, last = taken, taken > 0 and now_s or nil
      for _, second in ipairs(scope.rate.seconds) do
        used = used + second[index]
        if second[index] > 0 then last = math.max(last or 0, second[1]) end
      end
      if not found or allowed - used < found[1] - found[2] then
        found = {allowed, used, last and last + WINDOW_S + 1 - now_s or 0}
      end
    end
  end
  return found
end

local function cost_now()
  local cost, latest = 0, -1
  for since, micros in string.gmatch(ARGV[6], '(%d+):(%d+)') do
    if tonumber(since) <= now_s and tonumber(since) > latest then cost, latest = tonumber(micros), tonumber(since) end
  end
  return cost
end

local function limits_of(text)
  return text and text ~= '' and cjson.decode(text) or {}
end

local tenant = redis.call('HMGET', KEYS[1], 'disabled', 'limits', 'created_at')
if not tenant[3] or (tenant[1] == '1' and reservation_id ~= '') then return cjson.encode({decision = 'unknown'}) end
local scopes = {read_scope('tenant', base, KEYS[4], KEYS[6], limits_of(tenant[2]))}
if key_id ~= '' then
  local record = redis.call('HGET', KEYS[2], key_id)
  local key = record and cjson.decode(record)
  if not key or (key.expires_at and key.expires_at <= now_s) then return cjson.encode({decision = 'unknown'}) end
  scopes[2] = read_scope('key', base .. 'key:' .. key_id .. ':', KEYS[5], KEYS[7], key.limits or {})
end

local cost = cost_now()
local is_known = reservation_id ~= '' and redis.call('EXISTS', KEYS[3]) == 1
local is_taken = reservation_id ~= '' and not is_known
local is_counted = ARGV[8] == '1'
if is_taken then
  for _, scope in ipairs(scopes) do check(scope, cost) end
  check_stored(scopes[1], tonumber(ARGV[9] or ''), tonumber(ARGV[10] or ''))
  is_taken = refusal == nil
  is_counted = not is_taken and not is_minute_full
elseif is_counted then
  for _, scope in ipairs(scopes) do check_requests(scope) end
  is_counted = not is_minute_full
end
if is_taken then
  for _, scope in ipairs(scopes) do take(scope, cost) end
  redis.call('HSET', KEYS[3], 'key_id', key_id, 'request_id', ARGV[3], 'model', ARGV[4], 'images', images,
    'cost', cost, 'second', now_s, 'day', day_name, 'month', month_name, 'admitted_ms', now_ms)
  redis.call('EXPIRE', KEYS[3], TICKET_KEPT_S)
elseif is_counted then
  for _, scope in ipairs(scopes) do count(scope, 0) end
end

local answer = refusal or {decision = 'admitted'}
answer.requests = tighter(scopes, 'requests_per_minute', 2, (is_taken or is_counted) and 1 or 0)
answer.images = tighter(scopes, 'images_per_minute', 3, is_taken and images or 0)
if reservation_id == '' then
  local scope = scopes[#scopes]
  answer.used = {
    requests_last_minute = scope.rate.requests, images_last_minute = scope.rate.images, concurrency = scope.running,
    images_today = scope.day.images, images_this_month = scope.month.images,
    usd_micros_this_month = exact(scope.month.usd_micros), open = redis.call('ZCARD', scope.open),
  }
end
return cjson.encode(answer)
