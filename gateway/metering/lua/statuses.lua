-- What admit.lua returns of rate limits, quotas and counters. It stands after events.lua, which has the QUOTAS, and before
-- admit.lua, which reads the scopes: tables with name, limits, open, rate, day, month and running. No KEYS, ARGV, TTL or
-- clock of its own.
local WINDOW_S = 60

-- A whole number as text: cjson preserves 14 digits only.
local function exact(number) return string.format('%.0f', number) end

-- The Unix second at which none of a measure's minute is used any more; nil if none is now.
local function frees_at(scope, measure)
  local last_s = nil
  for _, second in ipairs(scope.rate.seconds) do
    if second[measure] > 0 then last_s = second.at end
  end
  return last_s and last_s + WINDOW_S + 1
end

-- The status of a rate limit in its tightest scope, `taken` by this request included.
local function rate_status(scopes, measure, taken, now_s)
  local found, least = nil, math.huge
  for _, scope in ipairs(scopes) do
    local limit = scope.limits[measure .. '_per_minute']
    if limit and limit - scope.rate[measure] - taken < least then
      least = limit - scope.rate[measure] - taken
      local free_at_s = taken > 0 and now_s + WINDOW_S + 1 or frees_at(scope, measure) or now_s
      found = {limit = limit, remaining = math.max(0, least), reset_s = free_at_s - now_s}
    end
  end
  return found
end

-- The status of every quota, what this request reserved included; nil if there is none.
local function quota_statuses(scopes, images, usd_micros)
  local found = {}
  for _, scope in ipairs(scopes) do
    for _, quota in ipairs(QUOTAS) do
      local limit, window = not quota.budget and scope.limits[quota.limit], scope[quota.period]
      if limit then
        local used = window[quota.measure] + (quota.measure == 'images' and images or usd_micros)
        table.insert(found, {
          scope = scope.name, name = quota.limit, limit = exact(limit), used = exact(used),
          resets_at_s = window.ends_s})
      end
    end
  end
  return found[1] and found
end

local function counters(scope)
  return {
    requests_last_minute = scope.rate.requests, images_last_minute = scope.rate.images, concurrency = scope.running,
    images_today = scope.day.images, images_this_month = scope.month.images,
    usd_micros_this_month = exact(scope.month.usd_micros), open_requests = redis.call('ZCARD', scope.open),
    credited_images_today = scope.day.credited_images, credited_images_this_month = scope.month.credited_images,
    credited_usd_micros_this_month = exact(scope.month.credited_usd_micros),
    requests_free_at_s = frees_at(scope, 'requests'), images_free_at_s = frees_at(scope, 'images'),
  }
end
