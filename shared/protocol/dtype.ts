/** Number formats of models; where none is named, the first that is there counts. int4: weights alone. */
export const DTYPES = ['fp32', 'fp16', 'int8', 'int4'] as const
export type Dtype = (typeof DTYPES)[number]
