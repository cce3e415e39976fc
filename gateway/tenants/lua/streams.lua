-- The streams of a tenant or a pool that a change appends to. Stands before every script that writes one.
-- Events   type, at_ms (Unix ms) and data (JSON), see domain/events.py; about 10,000 entries at most
-- Audit    changes and their actors, see tenants/audit.py
-- TTL      none: the gateway deletes events that it has sent; the audit log drops entries older than keep_s seconds
-- Clock    of the caller
local EVENTS_MAX = 10000

local function append_event(stream, type, now_ms, data)
  redis.call('XADD', stream, 'MAXLEN', '~', EVENTS_MAX, '*', 'type', type, 'at_ms', now_ms, 'data', data)
end

-- Returns micro-dollars as decimal dollars, as events have them, with two decimals or more.
local function dollars(micros)
  local sign, rest = micros < 0 and '-' or '', math.abs(micros)
  local text = string.format('%d.%06d', math.floor(rest / 1000000), rest % 1000000)
  return sign .. string.gsub(text, '0?0?0?0?$', '', 1)
end

-- `before` and `after` are JSON, or "".
local function append_audit(stream, now_ms, keep_s, action, actor, request_id, key_id, before, after)
  local oldest_ms = math.max(0, now_ms - keep_s * 1000)
  redis.call('XADD', stream, 'MINID', '~', string.format('%.0f', oldest_ms), '*', 'action', action, 'actor', actor,
    'request_id', request_id, 'key_id', key_id, 'before', before, 'after', after)
end
